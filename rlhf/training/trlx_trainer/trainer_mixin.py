"""What both trainers add to those of trlx: figures go to our files, checkpoints are whole, a killed run goes on.

trlx's learn() counts `iter_count` optimizer steps, and after each calls, where they are due, save(), save_pretrained(),
evaluate() and in the end accelerator.log(); those are the seams used here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rlhf.runtime.stage import is_main_process
from rlhf.training.trlx_trainer.checkpoints import Checkpoints, State

OF_UPDATE = "learning_rate_group_0"
"""A figure that trlx logs after each optimizer step and nowhere else."""
OF_BASE = "base_model."
"""Prefix of the policy's tensors within trlx's model, beside value head and reference."""


@dataclass
class Resumable:
    """Where a run writes, and where it goes on from."""

    output: Path
    checkpoints: Checkpoints
    resumed: State | None

    @property
    def iteration(self) -> int:
        """Optimizer steps that are done already."""
        return self.resumed.iteration if self.resumed else 0


class Recorded:
    """Mixed into a trainer of trlx.  A subclass says what a row is and what a checkpoint needs."""

    run: Resumable

    def begin_recording(self: Any, run: Resumable) -> None:
        """Take over the log of trlx.  Call it when the trainer is made."""
        self.run = run
        self.due = False
        self.accelerator.log = self.hear

    def hear(self: Any, stats: dict[str, Any], step: int) -> None:
        """What trlx would send to its tracker."""
        if OF_UPDATE not in stats:
            self.record_rollouts(stats)
            return
        self.record_update(stats, step)
        if self.due and step < self.total_steps:  # behind the last step the model itself is written
            self.write_checkpoint()
        self.due = False

    def record_rollouts(self, stats: dict[str, Any]) -> None:
        """Hear of rollouts or of a measurement."""

    def evaluate(self: Any) -> dict[str, float]:
        """Measure, but not where a run goes on: that was measured before, and learn() then only has to be told how
        far the run is."""
        if self.run.resumed is not None and self.iter_count == 0:
            self.iter_count = self.run.iteration
            return {}
        figures: dict[str, float] = self.measure()
        return figures

    def save(self: Any, _directory: str) -> None:
        """Only note that a checkpoint is due: it has to follow the measurement and the row of the same step."""
        self.due = True

    def save_pretrained(self, _directory: str) -> None:
        """Nothing: the model is written in our layout in the end."""

    def write_checkpoint(self: Any) -> None:
        """Write trlx's checkpoint and what it lacks."""
        folder = self.run.checkpoints.folder(self.iter_count)
        # its safetensors cannot hold tied weights
        self.accelerator.save_state(str(folder), safe_serialization=False)
        self.accelerator.wait_for_everyone()
        if is_main_process():
            self.run.checkpoints.finish(self.state())

    def trained_tensors(self: Any) -> dict[str, Tensor]:
        """The policy's tensors by the names that transformers gives them.  Every process calls it."""
        tensors = self.accelerator.get_state_dict(self.model)
        return {name.removeprefix(OF_BASE): tensor for name, tensor in tensors.items() if self.of_policy(name)}

    def of_policy(self, name: str) -> bool:
        """Whether a tensor of the trainer's model belongs to the policy."""
        return name.startswith(OF_BASE)
