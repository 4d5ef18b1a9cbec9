"""The contract of a stage: a command that turns a request into an artifact.

`accelerate launch -m rlhf.stages.train_ppo --config request.json --output DIR` (or
`python -m rlhf.stages.prepare_data ...` if no accelerator is needed) runs the stage's function and writes
`DIR/manifest.json` last.  Meanwhile the orchestrator reads standard output: `@progress {...}`, `@note "..."` and
`@error {...}` lines.  Everything else printed is the log.

A stage's function must resume by itself from the files in DIR.  It runs on every rank; only the main rank writes.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

import rlhf
from rlhf.config import Settings
from rlhf.errors import UserError, user_message
from rlhf.storage.artifacts import CHECKPOINTS, Manifest, record_files, write_manifest
from rlhf.storage.files import locked

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "trl",
    "trlx",
    "datasets",
    "tokenizers",
    "detoxify",
    "alt-profanity-check",
)
PROGRESS_SECONDS = 0.5
"""Minimum time between two progress lines of one phase."""
TRACKER, TRACKER_FOLDER = "RLHF_TRACKER", "RLHF_TRACKER_FOLDER"
"""Environment variables for rlhf.runtime.trackers: tensorboard, wandb or mlflow, and WORKSPACE/RUN/tracker/STAGE."""

CODE = "RLHF_CODE"
"""Environment variable with the folder of the package `rlhf` whose code is part of the stage's fingerprint."""

StageT = TypeVar("StageT", bound=Settings)


class StageInput(BaseModel):
    """One input of a stage: the folder of a finished artifact, or a user's file or folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    fingerprint: str
    path: Path


class StageRequest(BaseModel):
    """Content of the file that --config names."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    fingerprint: str
    config: dict[str, object]
    inputs: dict[str, StageInput]


StageFunction = Callable[[StageT, dict[str, Path], Path], dict[str, float]]
"""Takes the settings, the inputs by name and the output folder; returns metrics for the manifest."""


def is_main_process() -> bool:
    """Whether this rank is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def is_cpu_requested() -> bool:
    """Whether the launcher asks for the CPU even if there is a GPU, as `accelerate launch --cpu` does."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "t", "yes", "y", "on")


def main(config_type: type[StageT], function: StageFunction[StageT]) -> None:
    """Run `function` as the command line asks.  Exit code: 0 finished, 2 an error that the user can fix, 1 a bug."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    _die_with_parent()
    try:
        _require_code()
        request = StageRequest.model_validate_json(arguments.config.read_bytes())
        execute(request, config_type, function, arguments.output)
    except Exception as error:
        message = user_message(error) or _unusable_proxy(error)
        if message is None:
            traceback.print_exc()
        kind = "input" if message else "fault"
        _emit("error", {"kind": kind, "message": message or f"{type(error).__name__}: {error}"})
        sys.exit(2 if message else 1)


def _unusable_proxy(error: Exception) -> str | None:
    """The message for the user if the environment names a proxy with which no HTTP client can be created."""
    if not ("socksio" in str(error) or str(error).startswith("Unknown scheme for proxy URL")):
        return None
    names = ", ".join(name for name in os.environ if name.lower() in ("all_proxy", "http_proxy", "https_proxy"))
    return (
        f"environment variables {names}: {str(error).partition('. ')[0].rstrip('.')}; name a proxy of http:// or "
        "https://, install what is missing, or unset them"
    )


def execute(request: StageRequest, config_type: type[StageT], function: StageFunction[StageT], output: Path) -> None:
    """Run `function`, then write the manifest, which marks the output as finished."""
    started = time.monotonic()
    config = config_type.model_validate(request.config)
    output.mkdir(parents=True, exist_ok=True)
    with _locked(output):
        metrics = function(config, {name: source.path for name, source in request.inputs.items()}, output)
        if not is_main_process():
            return
        write_manifest(
            output,
            Manifest(
                stage=request.stage,
                fingerprint=request.fingerprint,
                config=config.model_dump(mode="json"),
                inputs={name: source.fingerprint for name, source in request.inputs.items()},
                files=record_files(output),
                metrics=metrics,
                versions=_versions(),
                seed=getattr(config, "seed", 0),
                seconds=round(time.monotonic() - started, 3),
                device=_device(),
                processes=int(os.environ.get("WORLD_SIZE", "1")),
                finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            ),
        )
        shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)


def _die_with_parent() -> None:
    """Get SIGTERM if the launcher dies for any reason, so that no rank stays alive.  Linux only.

    A stage without launcher is a child of its supervisor, which has asked for a signal already.
    """
    if sys.platform == "linux":
        set_parent_death_signal, get_parent_death_signal = 1, 2
        prctl, current = ctypes.CDLL(None).prctl, ctypes.c_int()
        prctl(get_parent_death_signal, ctypes.byref(current))
        if current.value == 0:
            prctl(set_parent_death_signal, signal.SIGTERM)


def _require_code() -> None:
    """Raise UserError if this process runs another copy of the code than the one that the fingerprint was made of."""
    code, expected = Path(rlhf.__file__).parent, Path(os.environ.get(CODE) or Path(rlhf.__file__).parent)
    if code.resolve() != expected.resolve():
        raise UserError(
            f"the stage would run the code in {code}, but its result would count as that of {expected}; "
            "run the `rlhf` command of the environment that the code is installed in, without PYTHONPATH"
        )


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Keep a second run of the same stage on this machine out of the output folder.

    Raises UserError if another run holds it.
    """
    with contextlib.ExitStack() as stack:
        if is_main_process():
            try:
                stack.enter_context(locked(output / ".lock", wait=False))
            except BlockingIOError as error:
                raise UserError(f"{output} is being written by another run; wait for it or stop it") from error
        yield


def progress(phase: str, done: int, total: int, **metrics: float) -> None:
    """Report the progress of `phase`, with metrics to show next to it.  Lines within PROGRESS_SECONDS are skipped."""
    now = time.monotonic()
    if is_main_process() and (done >= total or now - _last_progress.get(phase, 0.0) >= PROGRESS_SECONDS):
        _last_progress[phase] = now
        _emit("progress", {"phase": phase, "done": done, "total": total, "metrics": metrics})


def note(message: str) -> None:
    """Report something that a person should read: it appears in the log of the run."""
    if is_main_process():
        _emit("note", message)


_last_progress: dict[str, float] = {}
"""Time of the last progress line of each phase."""


def _emit(kind: str, content: object) -> None:
    sys.stdout.write(f"@{kind} {json.dumps(content)}\n")
    sys.stdout.flush()


def _versions() -> dict[str, str]:
    installed = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed


def _device() -> str:
    """Name of the GPU, or "cpu" if the stage used none."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and not is_cpu_requested():
        return str(torch.cuda.get_device_name())
    return "cpu"
