"""Checkpoints of a PPO run: what is trained, and the little else that the next step depends on.

`checkpoints/step-000010/` holds `weights.safetensors` (trained parameters, value head among them, in float32),
`moments.safetensors` (AdamW's) and `state.json`.  Prompts, seeds and minibatches follow from the step's number, so
there is no generator to save.  A folder gets its name when all of it is on the disk.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf.storage.artifacts import CHECKPOINTS
from rlhf.storage.files import write_atomically

WEIGHTS, MOMENTS, STATE = "weights.safetensors", "moments.safetensors", "state.json"


class Measured(BaseModel):
    """A mean validation score and the step after which it was measured."""

    model_config = ConfigDict(frozen=True)
    step: int
    score: float


class State(BaseModel):
    """What a run has come to after `step`."""

    model_config = ConfigDict(frozen=True)
    step: int
    kl_coefficient: float
    score_count: float
    score_mean: float
    score_squares: float
    first: Measured
    best: Measured
    last: Measured


class Checkpoints:
    """The checkpoints below a stage's output folder."""

    def __init__(self, output: Path, keep: int) -> None:
        """Keep the `keep` newest and the best."""
        self.folder = output / CHECKPOINTS
        self.keep = keep

    def save(self, state: State, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        """Write the checkpoint of `state.step`, then remove those that are no longer kept."""
        whole = self._path(state.step)
        partial = whole.with_suffix(".partial")
        for leftover in (partial, whole):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_storable(weights), partial / WEIGHTS)
        save_file(_storable(moments), partial / MOMENTS)
        for name in (WEIGHTS, MOMENTS):
            _sync(partial / name)
        write_atomically(partial / STATE, state.model_dump_json(indent=2))
        _sync(partial)
        partial.rename(whole)
        _sync(self.folder)
        self._prune(state)

    def newest(self) -> State | None:
        """The state of the newest whole checkpoint."""
        steps = self._steps()
        return State.model_validate_json((self._path(steps[-1]) / STATE).read_bytes()) if steps else None

    def weights(self, step: int) -> dict[str, Tensor]:
        """The trained weights after `step`."""
        tensors: dict[str, Tensor] = load_file(self._path(step) / WEIGHTS)
        return tensors

    def moments(self, step: int) -> dict[str, Tensor]:
        """The optimizer's moments after `step`."""
        tensors: dict[str, Tensor] = load_file(self._path(step) / MOMENTS)
        return tensors

    def _prune(self, state: State) -> None:
        steps = self._steps()
        for step in set(steps[: -self.keep]) - {state.best.step}:
            shutil.rmtree(self._path(step))

    def _steps(self) -> list[int]:
        """Steps with a whole checkpoint, in order: one that was being removed when the run ended has lost a file."""
        names = re.compile(r"step-(\d+)")
        found = [names.fullmatch(path.name) for path in self.folder.glob("step-*")]
        steps = sorted(int(match[1]) for match in found if match)
        return [s for s in steps if all((self._path(s) / name).is_file() for name in (WEIGHTS, MOMENTS, STATE))]

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"


def _storable(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
