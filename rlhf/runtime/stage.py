"""The contract of a stage: a command that turns a request into an artifact.

`accelerate launch -m rlhf.stages.train_ppo --config request.json --output DIR` (or
`python -m rlhf.stages.prepare_data ...` if no accelerator is needed) runs the stage's function and writes
`DIR/manifest.json` last.  Meanwhile the orchestrator reads standard output: `@progress {...}`, `@note "..."` and
`@error {...}` lines.  Everything else printed is the log.

A body must resume by itself from what it finds in DIR, and run alike on every rank; only the main rank writes.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
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

from rlhf.config import Settings
from rlhf.errors import UserError, user_message
from rlhf.storage.artifacts import CHECKPOINTS, Manifest, record_files, write_manifest

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
"""Least time between two progress lines of one phase."""
TRACKER, TRACKER_FOLDER = "RLHF_TRACKER", "RLHF_TRACKER_FOLDER"
"""Environment variables for rlhf.runtime.trackers: tensorboard, wandb or mlflow, and WORKSPACE/PROFILE/tracker/STEP."""

StageT = TypeVar("StageT", bound=Settings)


class StageInput(BaseModel):
    """One input of a stage: a finished artifact's folder, or a user's file or folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    fingerprint: str
    path: Path


class StageRequest(BaseModel):
    """Content of the file behind --config."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    fingerprint: str
    config: dict[str, object]
    inputs: dict[str, StageInput]


Body = Callable[[StageT, dict[str, Path], Path], dict[str, float]]
"""Takes the settings, the inputs by name and the output folder; returns the figures that the stage's record shows."""


def is_main_process() -> bool:
    """Whether this rank is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def main(config_type: type[StageT], body: Body[StageT]) -> None:
    """Run `body` as the command line asks and exit: 0 finished, 2 the user's to mend, 1 our fault."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    _die_with_parent()
    try:
        request = StageRequest.model_validate_json(arguments.config.read_bytes())
        execute(request, config_type, body, arguments.output)
    except Exception as error:
        message = user_message(error)
        if message is None:
            traceback.print_exc()
        kind = "input" if message else "fault"
        _tell("error", {"kind": kind, "message": message or f"{type(error).__name__}: {error}"})
        sys.exit(2 if message else 1)


def execute(request: StageRequest, config_type: type[StageT], body: Body[StageT], output: Path) -> None:
    """Run `body` and declare its output finished."""
    started = time.monotonic()
    config = config_type.model_validate(request.config)
    output.mkdir(parents=True, exist_ok=True)
    with _locked(output):
        figures = body(config, {name: given.path for name, given in request.inputs.items()}, output)
        if not is_main_process():
            return
        write_manifest(
            output,
            Manifest(
                stage=request.stage,
                fingerprint=request.fingerprint,
                config=config.model_dump(mode="json"),
                inputs={name: given.fingerprint for name, given in request.inputs.items()},
                files=record_files(output),
                metrics=figures,
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
    """Get TERM when the launcher dies, however it dies, so that no rank is left behind.  Linux only."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Hold the output folder against a second run of the same stage on this machine."""
    if not is_main_process():
        yield
        return
    with (output / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{output} is being written by another run; wait for it or stop it") from None
        yield


def progress(phase: str, done: int, total: int, **figures: float) -> None:
    """Tell how far `phase` is, with figures worth showing beside it.  Cheap: lines are thinned out."""
    now = time.monotonic()
    if is_main_process() and (done >= total or now - _last_told.get(phase, 0.0) >= PROGRESS_SECONDS):
        _last_told[phase] = now
        _tell("progress", {"phase": phase, "done": done, "total": total, "figures": figures})


def note(message: str) -> None:
    """Tell a person something that matters: it reaches the log of the run."""
    if is_main_process():
        _tell("note", message)


_last_told: dict[str, float] = {}


def _tell(kind: str, content: object) -> None:
    sys.stdout.write(f"@{kind} {json.dumps(content)}\n")
    sys.stdout.flush()


def _versions() -> dict[str, str]:
    installed = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed


def _device() -> str:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "cpu"
