"""Start a stage as a child process group and follow it to its end."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

import deployments
import rlhf
from rlhf.config import ComputeConfig
from rlhf.errors import UserError
from rlhf.runtime.stage import CODE, TRACKER, TRACKER_FOLDER, StageRequest
from rlhf.storage.artifacts import LOG, REQUEST
from rlhf.storage.files import write_atomically
from tasks.environment import (
    forget_launchers,
    isolate,
    name_unknown_user,
    reach_loopback_directly,
    restore_hidden_proxies,
)
from tasks.messages import Note, Progress, StageError, read_messages
from tasks.process_group import ask_to_end, start_group, wait_for_end
from tasks.trlx_environment import ACCELERATE_CONFIG_GPU, import_path, trlx_python

GRACE_SECONDS = 30.0
"""Time between SIGTERM and SIGKILL, for the stage to save a checkpoint."""
RENDEZVOUS_PORT = "29500"
"""Port on which machine 0 waits for the others, unless compute.main_address names one."""
TAIL_LINES = 20
"""Number of lines at the end of the log that an error quotes."""
TAIL_CHARACTERS = 2000
"""How much of such a line is quoted."""


KILLED_PROCESS = re.compile(
    r"died with <Signals\.SIG\w+: (?P<single>\d+)>|Signal (?P<one_of_many>\d+) \(SIG\w+\) received by PID"
)
"""How `accelerate launch` reports that a signal has ended a process of the stage; it then ends with exit code 1."""


class StageFailedError(RuntimeError):
    """A stage failed, and not because of the user's input."""


class RemoteWorkspace(BaseModel):
    """A workspace in S3."""

    model_config = ConfigDict(frozen=True)
    uri: str
    """s3://bucket/prefix."""
    cache: Path
    """Local cache of the machine that created the job.  The job's paths are below it."""


class StageJob(BaseModel):
    """A stage to run, on this machine or on a GPU pool."""

    model_config = ConfigDict(frozen=True)
    label: str
    """Name of the stage, and its variant if it runs more than once: `score_toxicity[sft]`."""
    module: str
    """Entry point of the stage, such as rlhf.stages.train_sft."""
    code: str
    """source_digest of the module, where the pipeline runs: part of the stage's fingerprint."""
    environment: Literal["own", "trlx"] = "own"
    """Its Python environment: this one, or that of deployments/trlx."""
    needs_gpu: bool
    """Whether it runs under `accelerate launch`, and on the GPU pool if there is one."""
    offline: bool
    """Whether access to the Hugging Face hub is disabled."""
    request: StageRequest
    """Settings and inputs."""
    output: Path
    """Folder of its artifact."""
    compute: ComputeConfig
    """Processes, threads and machines."""
    tracker_folder: Path
    """Folder of the tracker's files, if compute.tracker is set."""
    remote: RemoteWorkspace | None = None
    """The workspace, if it is in S3 instead of a folder that all machines share."""


@dataclass(frozen=True)
class StageCallbacks:
    """Functions to call with the progress and the notes of a running stage."""

    progress: Callable[[Progress], None]
    note: Callable[[str], None]


NO_CALLBACKS = StageCallbacks(lambda _progress: None, lambda _note: None)


def stage_command(job: StageJob, machine_rank: int = 0) -> list[str]:
    """The command line of a stage, under `accelerate launch` if it needs GPUs.

    `machine_rank` counts the machines of a stage from 0; machine 0 holds rank 0, which writes the artifact.
    Raises UserError if the accelerate configuration or the trlx environment is missing.
    """
    output = job.output.absolute()
    stage_arguments = ["-m", job.module, "--config", str(output / REQUEST), "--output", str(output)]
    if not job.needs_gpu:
        return [sys.executable, *stage_arguments]
    compute = job.compute
    uses_trlx = job.environment == "trlx"
    config = _accelerate_config(compute.accelerate)
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    if uses_trlx and not settings["use_cpu"]:
        config = deployments.path_of(ACCELERATE_CONFIG_GPU)
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    python = trlx_python() if uses_trlx else sys.executable
    launcher = [python, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    # On CPU too, accelerate starts more than one process only with this flag.
    multi_gpu = ["--multi_gpu"] if settings["distributed_type"] == "NO" and compute.processes > 1 else []
    processes = ["--num_processes", str(compute.processes)]
    return [*launcher, *processes, *_machine_arguments(compute, machine_rank), *multi_gpu, *stage_arguments]


def _accelerate_config(name: str) -> Path:
    folder = deployments.path_of("accelerate")
    config = folder / f"{name}.yaml"
    if not config.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise UserError(f"compute.accelerate ({name}) names no configuration; there are {known}")
    return config


def _machine_arguments(compute: ComputeConfig, rank: int) -> list[str]:
    """Options of `accelerate launch` with which the launchers of several machines meet at machine 0."""
    if compute.machines == 1:
        return []
    assert compute.main_address is not None
    host, _, port = compute.main_address.partition(":")
    return [
        *("--num_machines", str(compute.machines), "--machine_rank", str(rank)),
        *("--main_process_ip", host, "--main_process_port", port or RENDEZVOUS_PORT, "--rdzv_backend", "static"),
    ]


def launch_stage(job: StageJob, callbacks: StageCallbacks) -> None:
    """Run a stage on this machine to its end, at most `compute.parallel_stages` of them at once.

    Raises what `stage_command` and `run_process` raise.
    """
    command = stage_command(job)
    job.output.mkdir(parents=True, exist_ok=True)
    write_atomically(job.output / REQUEST, job.request.model_dump_json(indent=2))
    with _stage_settings(job) as settings:
        for rank in range(1, job.compute.machines if job.needs_gpu else 1):
            other = ["env", *(f"{name}={value}" for name, value in settings.items()), *stage_command(job, rank)]
            callbacks.note(f"{job.label} waits for machine {rank}. Run on machine {rank}: {shlex.join(other)}")
        with _stage_semaphore(job.compute.parallel_stages):
            # Python before 3.11, as an environment of trlx may have, imports from the current folder nevertheless.
            folder = Path(settings["PYTHONPATH"]) if job.environment == "trlx" else None
            environment = stage_environment(os.environ) | settings
            run_process(command, job.output, environment, callbacks, folder)


def stage_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What a stage keeps of the variables of this process, and which code it must run."""
    environment = {**inherited, CODE: str(Path(rlhf.__file__).parent)}
    isolate(environment)
    forget_launchers(environment)
    restore_hidden_proxies(environment)
    reach_loopback_directly(environment)
    name_unknown_user(environment)
    return environment


def run_process(
    command: list[str],
    output: Path,
    environment: dict[str, str],
    callbacks: StageCallbacks,
    folder: Path | None = None,
) -> None:
    """Run `command` to its end, in `folder` if one is named.

    Progress and notes on its standard output go to the callbacks, all other output to `output/log.txt`.  If this
    thread is interrupted or this process dies, the command gets SIGTERM, and after a grace SIGKILL, as has everything
    that it started.

    Raises UserError if the stage reports an error that the user can fix, else StageFailedError with the end of the log.
    """
    error: StageError | None = None
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with _started(command, environment, folder) as process, _log(output / LOG) as log:
        assert process.stdout is not None
        for message in read_messages(process.stdout):
            match message:
                case Progress():
                    callbacks.progress(message)
                case Note(note):
                    callbacks.note(note)
                case StageError():
                    error = error or message
                case line:
                    tail.append(line[:TAIL_CHARACTERS])
                    log(line)
        code = process.wait()
    if error is not None and error.kind == "input":
        raise UserError(error.message)
    if code != 0 or error is not None:
        reason, lines = (error.message, list(tail)) if error else _exit_reason(code, list(tail))
        raise StageFailedError(f"{reason}\n{''.join(lines)}(full log: {output / LOG})")


@contextlib.contextmanager
def stop_stages_on_error() -> Iterator[None]:
    """Stop all running stages if the `with` block raises.  They get time to save a checkpoint."""
    _stopping.clear()
    ctrl_c_pressed.clear()
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            ctrl_c_pressed.set()
        with _running_lock:
            _stopping.set()
            running = list(_running)
        for process in running:
            ask_to_end(process)
        for process in running:
            wait_for_end(process, GRACE_SECONDS)
        raise


def require_going_on() -> None:
    """Raise StageFailedError if the run is being stopped."""
    if _stopping.is_set():
        raise StageFailedError("the run is being stopped")


@cache
def _stage_semaphore(count: int) -> threading.BoundedSemaphore:
    """Lets `count` stages of this process run at once."""
    return threading.BoundedSemaphore(count)


_running: set[subprocess.Popen[str]] = set()
_running_lock = threading.Lock()
_stopping = threading.Event()
ctrl_c_pressed = threading.Event()
"""Set if a person pressed Ctrl-C.  Runs on GPU pools are then cancelled too."""


@contextlib.contextmanager
def _started(command: list[str], environment: dict[str, str], folder: Path | None) -> Iterator[subprocess.Popen[str]]:
    with _running_lock:
        require_going_on()
        process = start_group(command, environment, output=subprocess.PIPE, grace_seconds=GRACE_SECONDS, folder=folder)
        _running.add(process)
    try:
        yield process
    except BaseException:
        ask_to_end(process)
        raise
    finally:
        wait_for_end(process, GRACE_SECONDS)
        with _running_lock:
            _running.discard(process)


@contextlib.contextmanager
def _stage_settings(job: StageJob) -> Iterator[dict[str, str]]:
    """Environment variables of a stage, in addition to those that it inherits.  Valid inside the `with` block."""
    settings = {
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": str(job.compute.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    if job.compute.tracker != "none":
        settings |= {TRACKER: job.compute.tracker, TRACKER_FOLDER: str(job.tracker_folder)}
    if job.offline:
        settings |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    with import_path() if job.environment == "trlx" else contextlib.nullcontext() as folder:
        yield settings if folder is None else settings | {"PYTHONPATH": str(folder)}


@contextlib.contextmanager
def _log(path: Path) -> Iterator[Callable[[str], object]]:
    """Append lines to a log.  A failed write is ignored, so that a full disk does not hide the stage's own error."""
    try:
        stream = path.open("a", encoding="utf-8", buffering=1)
    except OSError:
        yield lambda _line: None
        return

    def write(line: str) -> None:
        with contextlib.suppress(OSError):
            stream.write(line)

    try:
        yield write
    finally:
        with contextlib.suppress(OSError):
            stream.close()


def _exit_reason(code: int, tail: list[str]) -> tuple[str, list[str]]:
    """Why a stage ended with this code, and the lines at the end of its log that say more."""
    killed = next((match for line in reversed(tail) if (match := KILLED_PROCESS.search(line))), None)
    if code >= 0 and killed is None:
        return f"the stage ended with exit code {code}", tail
    number = int(killed["single"] or killed["one_of_many"]) if killed else -code
    try:
        name = signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        name = f"signal {number}"
    if killed:  # what follows is the launcher's own trace
        starts = [index for index, line in enumerate(tail) if line.startswith("Traceback ")]
        tail = tail[: starts[-1]] if starts else tail
    hint = ", often because memory ran out" if number == signal.SIGKILL else ""
    return f"the stage was killed by {name}{hint}", tail
