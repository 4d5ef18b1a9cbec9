"""Checkpoints of trlx with the state that trlx does not save.

trlx saves models, optimizer and scheduler, but neither the progress of the run nor the validation scores of PPO.
`state.json` adds them, and `checkpoint.json`, which is written last, the SHA-256 of all files.  trlx's libraries read
their files as tensors and plain values only.  Not restored when a run resumes: the random generators and, in PPO, the
position in the list of prompts; both start from another seed.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf.runtime.stage import is_main_process, note
from rlhf.storage.artifacts import CHECKPOINTS
from rlhf.storage.files import write_atomically
from rlhf.training.checkpoint_record import discard_damaged, find_damage, read_record, remove_checkpoint, write_record

STATE = "state.json"


class RunningStatistics(BaseModel):
    """trlx's running mean and deviation of the scores."""

    model_config = ConfigDict(frozen=True)
    mean: float
    std: float
    var: float
    count: float


class TrlxState(BaseModel):
    """Progress of a run; the PPO fields are None in SFT."""

    model_config = ConfigDict(frozen=True)
    iteration: int
    """Optimizer steps taken."""
    kl_coefficient: float | None = None
    running_statistics: RunningStatistics | None = None
    first: float | None = None
    """Mean validation score before training."""
    best: float | None = None
    best_step: int | None = None
    last: float | None = None


class Checkpoints:
    """The checkpoints of one stage."""

    def __init__(self, output: Path, keep: int) -> None:
        self.output = output
        self.root = output / CHECKPOINTS
        self.keep = keep

    def newest(self) -> tuple[Path, TrlxState] | None:
        """Folder and state of the latest checkpoint that is intact; None if there is none.

        The main rank must call this before the others: it removes damaged ones, with a note.
        """
        complete = sorted(self._complete(), reverse=True)
        for folder in complete:
            state, damage = self._inspect(folder) if is_main_process() else (self._read_state(folder), None)
            if state is not None and damage is None:
                return folder, state
            discard_damaged(folder, damage or f"{STATE} has wrong fields")
        if complete:
            note(f"{self.root}: no intact checkpoint is left; the training starts again")
        return None

    def _inspect(self, folder: Path) -> tuple[TrlxState | None, str | None]:
        """State of a checkpoint, and what is wrong with it."""
        record = read_record(folder, self.output)
        damage = find_damage(folder, record) if record else "checkpoint.json was changed"
        return (None, damage) if damage else (self._read_state(folder), None)

    def _read_state(self, folder: Path) -> TrlxState | None:
        try:
            state = TrlxState.model_validate_json((folder / STATE).read_bytes())
        except ValidationError:
            return None
        return state if self.folder(state.iteration) == folder else None

    def _complete(self) -> list[Path]:
        """Folders of the complete checkpoints of this run."""
        complete = []
        for folder in self.root.glob("step-*"):
            record = read_record(folder, self.output)
            if record is not None and folder == self.folder(record.step):
                complete.append(folder)
        return complete

    def folder(self, iteration: int) -> Path:
        """Folder of the checkpoint after `iteration` optimizer steps."""
        return self.root / f"step-{iteration:08d}"

    def finish(self, state: TrlxState) -> None:
        """Declare the checkpoint of `state` complete, and delete checkpoints that are no longer needed."""
        folder, best = self.folder(state.iteration), self.best(state.best_step)
        write_atomically(folder / STATE, state.model_dump_json(indent=2))
        write_record(folder, self.output, state.iteration, beside=[best] if state.best_step is not None else [])
        complete = sorted(self._complete())
        for folder in self.root.glob("step-*"):
            if folder not in complete[-self.keep :]:
                remove_checkpoint(folder)
        for path in self.root.glob("best-*.safetensors"):
            if path != self.best(state.best_step):
                path.unlink()

    def best(self, step: int | None) -> Path:
        """File of the best weights, those after `step`."""
        return self.root / f"best-{step}.safetensors"

    def save_best(self, step: int, weights: dict[str, Tensor]) -> None:
        """Save `weights` as the best; earlier ones are kept until the next checkpoint."""
        temporary = self.best(step).with_suffix(".new")
        # copies, because safetensors refuses tied weights
        save_file({name: tensor.detach().cpu().clone() for name, tensor in weights.items()}, temporary)
        temporary.rename(self.best(step))

    def load_best(self, step: int) -> dict[str, Tensor]:
        """The weights that `save_best` saved after `step`."""
        weights: dict[str, Tensor] = load_file(self.best(step))
        return weights
