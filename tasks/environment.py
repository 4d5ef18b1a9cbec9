"""Environment variables of the processes that this program starts: stages, the Prefect server and workers.

What a shell, a cluster or another Prefect server has left in the environment must not reach a process that is private
to a run.  All functions change a mapping that the caller owns, a copy or `os.environ`.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

import httpx

from rlhf.errors import UserError

Environment = MutableMapping[str, str]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("all_proxy", "http_proxy", "https_proxy")
KEPT_FOR_STAGES = "RLHF_KEPT_"
"""Prefix of a proxy variable that is hidden from our own processes and restored for stages."""
LAUNCHER_PREFIXES = (
    *("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_"),  # accelerate
    *("TORCHELASTIC_", "PET_"),  # torchrun; PET_ are its options, as Kubeflow sets them
    *("PMI_", "PMIX_", "OMPI_", "MV2_"),  # mpirun and srun
)
LAUNCHER_VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "CROSS_RANK", "CROSS_SIZE", "LOCAL_SIZE"),
    *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME"),
    *("MASTER_ADDR", "MASTER_PORT", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_STEP_NUM_TASKS"),
)
"""Variables that say which rank a process is, and of how many.  `accelerate launch` sets those of its ranks itself."""
OWN_PREFECT_PREFIXES = ("PREFECT_HOME", "PREFECT_LOGGING_", "PREFECT_FLOWS_", "PREFECT_RUNNER_", "PREFECT_WORKER_")
"""Settings of Prefect that also hold for a server of our own.  All others are meant for another server."""


def isolate(environment: Environment) -> None:
    """Keep the current folder off the import path of a Python process, so that no file in it is run."""
    environment["PYTHONSAFEPATH"] = "1"
    absolute = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if Path(entry).is_absolute()]
    if absolute:
        environment["PYTHONPATH"] = os.pathsep.join(absolute)
    else:
        environment.pop("PYTHONPATH", None)


def forget_launchers(environment: Environment) -> None:
    """Remove what other launchers have left: `compute` alone says how many processes a stage has."""
    for name in list(environment):
        if name in LAUNCHER_VARIABLES or name.startswith(LAUNCHER_PREFIXES):
            del environment[name]


def forget_other_servers(environment: Environment) -> None:
    """Remove the settings of other Prefect servers: address, password, database, profile."""
    for name in list(environment):
        if name.startswith("PREFECT_") and not name.startswith(OWN_PREFECT_PREFIXES):
            del environment[name]


def reach_loopback_directly(environment: Environment) -> None:
    """Let no proxy stand between processes of this machine."""
    # As curl and Python do, the name in lower case counts if both are set.
    excepted = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [host.strip() for host in excepted.split(",") if host.strip()]
    if "*" not in hosts:
        hosts += [host for host in LOOPBACK if host not in hosts]
    environment["no_proxy"] = environment["NO_PROXY"] = ",".join(hosts)


def hide_unusable_proxies(environment: Environment) -> None:
    """Hide proxies with which no HTTP client can be created, not even one for this machine.  Stages get them back."""
    for name in unusable_proxies(environment):
        environment[KEPT_FOR_STAGES + name] = environment.pop(name)


def restore_hidden_proxies(environment: Environment) -> None:
    """Undo `hide_unusable_proxies`."""
    for name in list(environment):
        if name.startswith(KEPT_FOR_STAGES):
            environment[name.removeprefix(KEPT_FOR_STAGES)] = environment.pop(name)


def unusable_proxies(environment: Environment) -> dict[str, str]:
    """The reason for each proxy variable with which no HTTP client can be created."""
    reasons = {}
    for name in list(environment):
        address = environment[name].strip()
        if name.lower() in PROXIES and address:
            try:
                httpx.HTTPTransport(proxy=address if "://" in address else f"http://{address}").close()
            except (ImportError, ValueError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                reasons[name] = str(error).partition(". ")[0].rstrip(".")
    return reasons


def require_usable_proxies(environment: Environment) -> None:
    """Raise UserError if there is a proxy with which no HTTP client can be created."""
    for name, reason in unusable_proxies(environment).items():
        raise UserError(
            f"environment variable {name}: {reason}; install what is missing, correct the address, or unset {name}"
        )


def name_unknown_user(environment: Environment) -> None:
    """Give a name to a user whom the system does not know, as in a container that runs under any number.

    torch and others put it into the names of their cache folders, and end with KeyError if there is none.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        environment["LOGNAME"] = f"uid{os.getuid()}"


def require_prefect_home(environment: Environment) -> None:
    """Create the folder in which Prefect keeps its database.  Raises UserError if it cannot be written."""
    configured = environment.get("PREFECT_HOME")
    try:
        home = Path(configured or "~/.prefect").expanduser()
        home.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=home).close()
    except (OSError, RuntimeError) as error:
        place = f"PREFECT_HOME ({configured})" if configured else "the folder .prefect below HOME"
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(
            f"{place} cannot be written: {reason}; set the environment variable PREFECT_HOME, or HOME, to a folder "
            "of your own"
        ) from error
