"""Checkpoints of a PPO run: trained parameters, optimizer state, and the few numbers that the next step depends on.

`checkpoints/step-000010/` holds `weights.safetensors` (trained parameters including the value head, in float32),
`optimizer_state.safetensors` (of AdamW) and `state.json`.  Prompts, seeds and minibatches follow from the step number,
so no generator state is saved.  A folder gets its name after all of its content is on disk.
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
from rlhf.storage.files import replace_folder, write_atomically

WEIGHTS, OPTIMIZER_STATE, STATE = "weights.safetensors", "optimizer_state.safetensors", "state.json"


class TrainingState(BaseModel):
    """State of a run after `step`, except for the tensors."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")
    step: int
    kl_coefficient: float
    score_count: float
    score_mean: float
    score_m2: float
    validations: tuple[dict[str, float], ...]
    """Rows of all validations so far, in order; the first is that of the SFT model."""
    best_step: int
    """Step of the validation that is selected so far."""


class Checkpoints:
    """The checkpoints in a stage's output folder."""

    def __init__(self, output: Path, keep: int) -> None:
        """Keep the `keep` newest checkpoints and the best one."""
        self.folder = output / CHECKPOINTS
        self.keep = keep

    def save(self, state: TrainingState, weights: dict[str, Tensor], optimizer_state: dict[str, Tensor]) -> None:
        """Write the checkpoint of `state.step` durably, then remove old ones."""
        with replace_folder(self._path(state.step)) as folder:
            save_file(_storable(weights), folder / WEIGHTS)
            save_file(_storable(optimizer_state), folder / OPTIMIZER_STATE)
            for name in (WEIGHTS, OPTIMIZER_STATE):
                fsync(folder / name)
            write_atomically(folder / STATE, state.model_dump_json(indent=2))
            fsync(folder)
        fsync(self.folder)
        self._prune(state)

    def newest(self) -> TrainingState | None:
        """State of the newest complete checkpoint; None if there is none."""
        steps = self._steps()
        return TrainingState.model_validate_json((self._path(steps[-1]) / STATE).read_bytes()) if steps else None

    def weights(self, step: int) -> dict[str, Tensor]:
        """Trained weights after `step`."""
        tensors: dict[str, Tensor] = load_file(self._path(step) / WEIGHTS)
        return tensors

    def optimizer_state(self, step: int) -> dict[str, Tensor]:
        """Optimizer state after `step`."""
        tensors: dict[str, Tensor] = load_file(self._path(step) / OPTIMIZER_STATE)
        return tensors

    def _prune(self, state: TrainingState) -> None:
        steps = self._steps()
        for step in set(steps[: -self.keep]) - {state.best_step}:
            shutil.rmtree(self._path(step))

    def _steps(self) -> list[int]:
        """Steps with a complete checkpoint, in order.  One whose removal was interrupted lacks a file."""
        matches = [re.fullmatch(r"step-(\d+)", path.name) for path in self.folder.glob("step-*")]
        steps = sorted(int(match[1]) for match in matches if match)
        files = (WEIGHTS, OPTIMIZER_STATE, STATE)
        return [step for step in steps if all((self._path(step) / name).is_file() for name in files)]

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"


def fsync(path: Path) -> None:
    """Wait until a file's or folder's content is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _storable(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
