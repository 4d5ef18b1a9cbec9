"""Checkpoints of a PPO run: trained parameters, optimizer state, and the few numbers that the next step depends on.

`checkpoints/step-000010/` holds `weights.safetensors` (trained parameters including the value head, in float32),
`optimizer_state.safetensors` (of AdamW), `state.json`, and `checkpoint.json` with their SHA-256.  Prompts, seeds and
minibatches follow from the step number, so no generator state is saved.  A folder gets its name after all of its
content is on disk.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf.runtime.distributed import all_reduce_sum
from rlhf.runtime.stage import is_main_process, note
from rlhf.storage.artifacts import CHECKPOINTS
from rlhf.storage.files import replace_folder, write_atomically
from rlhf.training.checkpoint_record import discard_damaged, find_damage, read_record, write_record

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
        self.output = output
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
            write_record(folder, self.output, state.step)
            fsync(folder)
        fsync(self.folder)
        self._prune(state)

    def newest(self) -> TrainingState | None:
        """State of the newest checkpoint that is intact, as is the best one at that time; None if there is none.

        Damaged ones are removed, with a note.  All ranks must call this together; the main rank chooses.
        """
        step = self._newest_intact() if is_main_process() else 0
        step = int(all_reduce_sum(torch.tensor([step])).item())
        return None if step < 0 else TrainingState.model_validate_json((self._path(step) / STATE).read_bytes())

    def _newest_intact(self) -> int:
        """Its step; -1 if there is none."""
        checked: dict[int, bool] = {}

        def is_intact(step: int) -> bool:
            if step not in checked:
                checked[step] = self._is_intact(step)
            return checked[step]

        for step in reversed(self._steps()):
            if is_intact(step):
                best = TrainingState.model_validate_json((self._path(step) / STATE).read_bytes()).best_step
                if is_intact(best):
                    return step
                note(f"{self._path(step)}: not used, because the best checkpoint of that time, step {best}, is damaged")
        if checked:
            note(f"{self.folder}: no intact checkpoint is left; the training starts again")
        return -1

    def _is_intact(self, step: int) -> bool:
        path = self._path(step)
        record = read_record(path, self.output)
        if record is None:
            return False
        damage = find_damage(path, record) or _find_strange_state(path / STATE, step)
        if damage is not None:
            discard_damaged(path, damage)
        return damage is None

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
        """Steps with a complete checkpoint of this run, in order."""
        matches = [re.fullmatch(r"step-(\d{6,12})", path.name, re.ASCII) for path in self.folder.glob("step-*")]
        steps = sorted(int(match[1]) for match in matches if match)
        records = {step: read_record(self._path(step), self.output) for step in steps}
        return [step for step, record in records.items() if record is not None and record.step == step]

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"


def fsync(path: Path) -> None:
    """Wait until a file's or folder's content is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _find_strange_state(path: Path, step: int) -> str | None:
    """What is wrong with the state in a file, which should be that after `step`."""
    try:
        state = TrainingState.model_validate_json(path.read_bytes())
    except ValidationError as error:
        return f"{path.name} has {error.error_count()} wrong fields"
    return None if state.step == step and state.validations else f"{path.name} is that of another step"


def _storable(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
