"""Start a stage as a child process group and follow it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from deployments import FOLDER
from rlhf.config import ComputeConfig
from rlhf.errors import UserError
from rlhf.runtime.stage import TRACKER, TRACKER_FOLDER, StageRequest
from rlhf.storage.artifacts import LOG, REQUEST
from rlhf.storage.files import write_atomically
from tasks.process_group import kill_after, signal_group, start_group
from tasks.trlx_environment import ON_GPUS, ROOT, trlx_python

ACCELERATE_CONFIGS = FOLDER / "accelerate"
GRACE_SECONDS = 30.0
"""Time between TERM and KILL: enough to save a checkpoint."""
MEETING_PORT = "29500"
"""Where machine 0 waits for the others, if compute.main_address says nothing else."""
TAIL_LINES = 20
"""Last lines of the log that an error quotes."""


class StageFailedError(RuntimeError):
    """A stage ended without finishing, through no fault of the user's input."""


@dataclass(frozen=True)
class Progress:
    """How far a phase of a stage is."""

    phase: str
    done: int
    total: int
    figures: dict[str, float]


class Remote(BaseModel):
    """Artifacts that machines share by S3."""

    model_config = ConfigDict(frozen=True)
    uri: str
    """Where they are kept: s3://bucket/prefix."""
    cache: Path
    """The folder that the paths of the job lie below, on the machine that made it."""


class StageJob(BaseModel):
    """A stage to run, wherever that is."""

    model_config = ConfigDict(frozen=True)
    label: str
    """Name of the stage and, where it runs for each model, which."""
    module: str
    """Module whose body runs."""
    environment: Literal["own", "trlx"] = "own"
    """Python environment that it runs in: this one, or that of deployments/trlx."""
    accelerator: bool
    """Whether it runs under `accelerate launch`."""
    offline: bool
    """Whether it must not reach for the hub."""
    request: StageRequest
    """What it is to do, on which inputs."""
    output: Path
    """Folder of the artifact that it makes."""
    compute: ComputeConfig
    """Processes and threads."""
    tracker_folder: Path
    """Where a tracker's files go, if there is one."""
    remote: Remote | None = None
    """Where the artifacts are kept if not in folders that every machine sees."""


@dataclass(frozen=True)
class StageCallbacks:
    """Who wants to hear of a running stage."""

    progress: Callable[[Progress], None]
    note: Callable[[str], None]


def stage_command(job: StageJob, machine_rank: int = 0) -> list[str]:
    """The command line of a stage: by the python it needs, under `accelerate launch` where it needs an accelerator.

    `machine_rank` is the number, from 0, of one of the machines that share it; machine 0 writes what it makes.
    """
    tail = ["-m", job.module, "--config", str(job.output / REQUEST), "--output", str(job.output)]
    if not job.accelerator:
        return [sys.executable, *tail]
    compute = job.compute
    there = job.environment == "trlx"
    config = ACCELERATE_CONFIGS / f"{compute.accelerate}.yaml"
    if not config.is_file():
        known = ", ".join(sorted(path.stem for path in ACCELERATE_CONFIGS.glob("*.yaml")))
        raise UserError(f"compute.accelerate ({compute.accelerate}) names no configuration; there are {known}")
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    if there and not settings["use_cpu"]:
        config, settings = ON_GPUS, yaml.safe_load(ON_GPUS.read_text(encoding="utf-8"))
    python = trlx_python() if there else sys.executable
    launcher = [python, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    # The flag's name says GPU; on CPU too it is what makes accelerate start more than one process.
    alone = settings["distributed_type"] == "NO"
    several = ["--multi_gpu"] if alone and compute.processes > 1 else []
    return [*launcher, "--num_processes", str(compute.processes), *_machines(compute, machine_rank), *several, *tail]


def _machines(compute: ComputeConfig, rank: int) -> list[str]:
    """How the launchers of several machines find each other: they meet at machine 0, whose processes come first."""
    if compute.machines == 1:
        return []
    assert compute.main_address is not None
    host, _, port = compute.main_address.partition(":")
    return [
        *("--num_machines", str(compute.machines), "--machine_rank", str(rank)),
        *("--main_process_ip", host, "--main_process_port", port or MEETING_PORT, "--rdzv_backend", "static"),
    ]


def launch_stage(job: StageJob, listener: StageCallbacks) -> None:
    """Run a stage on this machine to its end, where there is room for one more.

    Raises what `run_process` raises.
    """
    command = stage_command(job)
    job.output.mkdir(parents=True, exist_ok=True)
    write_atomically(job.output / REQUEST, job.request.model_dump_json(indent=2))
    settings = _environment(job)
    for rank in range(1, job.compute.machines if job.accelerator else 1):
        there = ["env", *(f"{name}={value}" for name, value in settings.items()), *stage_command(job, rank)]
        listener.note(f"{job.label} waits for machine {rank}; start there: {shlex.join(there)}")
    with _slots(job.compute.parallel_stages):
        run_process(command, job.output, {**os.environ, **settings}, listener)


def run_process(command: list[str], output: Path, environment: dict[str, str], listener: StageCallbacks) -> None:
    """Run `command` to its end.

    Its standard output is followed for progress and notes; everything else goes to `output/log.txt`.  The process
    group gets TERM, and KILL after a grace, when this thread is interrupted; TERM too when this process dies.

    Raises UserError where the stage says that the user can mend it, StageFailedError with the end of the log where
    it fails otherwise.
    """
    error: dict[str, str] | None = None
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with _started(command, environment) as process, _log(output / LOG) as log:
        assert process.stdout is not None
        for line in process.stdout:
            kind, content = _parse(line)
            if kind == "progress":
                listener.progress(Progress(**content))
            elif kind == "note":
                listener.note(content)
            elif kind == "error":
                error = error or content
            else:
                tail.append(line)
                log(line)
        code = process.wait()
    if error is not None and error["kind"] == "input":
        raise UserError(error["message"])
    if code != 0 or error is not None:
        reason = error["message"] if error else _exit_reason(code)
        raise StageFailedError(f"{reason}\n{''.join(tail)}(whole log: {output / 'log.txt'})")


@contextlib.contextmanager
def stop_stages_on_error() -> Iterator[None]:
    """Where the body is left by an error, end every running stage, with a grace to save a checkpoint."""
    _stopping.clear()
    interrupted.clear()
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            interrupted.set()
        with _running_lock:
            _stopping.set()
            running = list(_running)
        for process in running:
            signal_group(process, signal.SIGTERM)
        for process in running:
            kill_after(process, GRACE_SECONDS)
        raise


@cache
def _slots(count: int) -> threading.BoundedSemaphore:
    """Room for `count` stages at once in this process."""
    return threading.BoundedSemaphore(count)


_running: set[subprocess.Popen[str]] = set()
_running_lock = threading.Lock()
_stopping = threading.Event()
interrupted = threading.Event()
"""Whether a person pressed Ctrl-C: what runs elsewhere for this process is to end too."""


@contextlib.contextmanager
def _started(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    with _running_lock:
        if _stopping.is_set():
            raise StageFailedError("the run is being stopped")
        process = start_group(command, environment, output=subprocess.PIPE)
        _running.add(process)
    # A rank that outlives its launcher would hold our end of the pipe open for ever.
    reaper = threading.Thread(target=_end_group_with_launcher, args=(process,), daemon=True)
    reaper.start()
    try:
        yield process
    except BaseException:
        signal_group(process, signal.SIGTERM)
        raise
    finally:
        reaper.join()
        with _running_lock:
            _running.discard(process)


def _end_group_with_launcher(process: subprocess.Popen[str]) -> None:
    process.wait()
    signal_group(process, signal.SIGTERM)
    kill_after(process, GRACE_SECONDS)


def _environment(job: StageJob) -> dict[str, str]:
    """What the environment of a stage has beside that of this process."""
    environment = {
        "OMP_NUM_THREADS": str(job.compute.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    if job.environment == "trlx":
        environment["PYTHONPATH"] = str(ROOT)
    if job.compute.tracker != "none":
        environment |= {TRACKER: job.compute.tracker, TRACKER_FOLDER: str(job.tracker_folder)}
    if job.offline:
        environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return environment


@contextlib.contextmanager
def _log(path: Path) -> Iterator[Callable[[str], object]]:
    """Append to a log that may be lost: a full disk must not hide the stage's own error."""
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


def _parse(line: str) -> tuple[str, Any]:
    kind, _, content = line.partition(" ")
    if kind in ("@progress", "@note", "@error"):
        with contextlib.suppress(ValueError):
            return kind[1:], json.loads(content)
    return "log", line


def _exit_reason(code: int) -> str:
    if code < 0:
        return f"the stage was killed by {signal.Signals(-code).name}"
    return f"the stage ended with exit code {code}"
