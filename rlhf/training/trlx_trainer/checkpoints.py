"""Checkpoints of trlx with the state that trlx does not save.

trlx saves models, optimizer and scheduler, but neither the progress of the run nor the validation scores of PPO.
`state.json` adds them; it is written last, so its existence means that the checkpoint is complete.  Not restored when a
run resumes: the random generators and, in PPO, the position in the list of prompts; both start from another seed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf.storage.artifacts import CHECKPOINTS
from rlhf.storage.files import write_atomically

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
        self.root = output / CHECKPOINTS
        self.keep = keep

    def newest(self) -> tuple[Path, TrlxState] | None:
        """Folder and state of the latest complete checkpoint."""
        checkpoints = [
            (path.parent, TrlxState.model_validate_json(path.read_bytes())) for path in self.root.glob(f"*/{STATE}")
        ]
        return max(checkpoints, key=lambda checkpoint: checkpoint[1].iteration, default=None)

    def folder(self, iteration: int) -> Path:
        """Folder of the checkpoint after `iteration` optimizer steps."""
        return self.root / f"step-{iteration:08d}"

    def finish(self, state: TrlxState) -> None:
        """Declare the checkpoint of `state` complete, and delete checkpoints that are no longer needed."""
        write_atomically(self.folder(state.iteration) / STATE, state.model_dump_json(indent=2))
        complete = sorted(path.parent for path in self.root.glob(f"step-*/{STATE}"))
        for folder in self.root.glob("step-*"):
            if folder not in complete[-self.keep :]:
                shutil.rmtree(folder)
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
