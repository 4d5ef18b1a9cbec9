"""Checkpoints around trlx's own, which hold models, optimizer and scheduler, but neither how far the run is nor what
PPO has measured.  `state.json` adds that and, written last, says that a checkpoint is whole.

Lost all the same when a run goes on: the state of the random generators and, in PPO, the place in the list of prompts;
both begin anew from another seed.
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


class Moments(BaseModel):
    """trlx's running moments of the scores."""

    model_config = ConfigDict(frozen=True)
    mean: float
    std: float
    var: float
    count: float


class State(BaseModel):
    """How far a run is; the PPO figures are None in fine-tuning."""

    model_config = ConfigDict(frozen=True)
    iteration: int
    """Optimizer steps taken."""
    kl_coefficient: float | None = None
    moments: Moments | None = None
    first: float | None = None
    """Mean validation score at the beginning."""
    best: float | None = None
    best_step: int | None = None
    last: float | None = None


class Checkpoints:
    """The checkpoints of one stage."""

    def __init__(self, output: Path, keep: int) -> None:
        self.root = output / CHECKPOINTS
        self.keep = keep

    def newest(self) -> tuple[Path, State] | None:
        """Folder and state of the latest whole checkpoint."""
        found = [(path.parent, State.model_validate_json(path.read_bytes())) for path in self.root.glob(f"*/{STATE}")]
        return max(found, key=lambda pair: pair[1].iteration, default=None)

    def folder(self, iteration: int) -> Path:
        """Where the checkpoint after so many optimizer steps lies or will lie."""
        return self.root / f"step-{iteration:08d}"

    def finish(self, state: State) -> None:
        """Declare the checkpoint of `state` whole; delete what no run will go back to."""
        write_atomically(self.folder(state.iteration) / STATE, state.model_dump_json(indent=2))
        whole = sorted(path.parent for path in self.root.glob(f"step-*/{STATE}"))
        for folder in self.root.glob("step-*"):
            if folder not in whole[-self.keep :]:
                shutil.rmtree(folder)
        for path in self.root.glob("best-*.safetensors"):
            if path != self.best(state.best_step):
                path.unlink()

    def best(self, step: int | None) -> Path:
        """Where the best weights, which are those after `step`, lie or will lie."""
        return self.root / f"best-{step}.safetensors"

    def save_best(self, step: int, weights: dict[str, Tensor]) -> None:
        """Keep `weights` as the best, beside those before until the next checkpoint."""
        temporary = self.best(step).with_suffix(".new")
        # copies, because safetensors refuses tied weights
        save_file({name: tensor.detach().cpu().clone() for name, tensor in weights.items()}, temporary)
        temporary.rename(self.best(step))

    def load_best(self, step: int) -> dict[str, Tensor]:
        """The weights that `save_best` kept after `step`."""
        weights: dict[str, Tensor] = load_file(self.best(step))
        return weights
