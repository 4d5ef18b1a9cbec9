"""Extend trlx's trainers: metrics go to our files, checkpoints are complete, and a killed run resumes.

trlx's learn() counts optimizer steps in `iter_count`.  After each it calls, if they are due, save(), save_pretrained()
and evaluate(), and then accelerator.log(); this module overrides those four.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rlhf.runtime.stage import is_main_process
from rlhf.training.trlx_trainer.checkpoints import Checkpoints, TrlxState

UPDATE_KEY = "learning_rate_group_0"
"""A key that trlx logs after each optimizer step and never otherwise."""
POLICY_PREFIX = "base_model."
"""Prefix of the policy's tensors in trlx's model, which also holds value head and reference."""


@dataclass
class Resumable:
    """Where a run writes, and the state it resumes from."""

    output: Path
    checkpoints: Checkpoints
    resumed: TrlxState | None

    @property
    def iteration(self) -> int:
        """Optimizer steps that are already done."""
        return self.resumed.iteration if self.resumed else 0


class RecordingMixin:
    """Mixin for a trainer of trlx.  A subclass defines the rows of metrics and the state of a checkpoint."""

    run: Resumable

    def begin_recording(self: Any, run: Resumable) -> None:
        """Receive what trlx logs.  Call this in the constructor of the trainer."""
        self.run = run
        self.checkpoint_due = False
        self.accelerator.log = self.on_log

    def on_log(self: Any, stats: dict[str, Any], step: int) -> None:
        """Handle what trlx would send to its tracker."""
        if UPDATE_KEY not in stats:
            self.record_rollouts(stats)
            return
        self.record_update(stats, step)
        if self.checkpoint_due and step < self.total_steps:  # after the last step the model itself is written
            self.write_checkpoint()
        self.checkpoint_due = False

    def record_rollouts(self, stats: dict[str, Any]) -> None:
        """Handle what trlx logs about rollouts or a validation."""

    def evaluate(self: Any) -> dict[str, float]:
        """Validate, except when a run resumes: that was done before, and learn() only needs the number of steps."""
        if self.run.resumed is not None and self.iter_count == 0:
            self.iter_count = self.run.iteration
            return {}
        metrics: dict[str, float] = self.validate()
        return metrics

    def save(self: Any, _directory: str) -> None:
        """Only note that a checkpoint is due: it must follow the validation and the row of the same step."""
        self.checkpoint_due = True

    def save_pretrained(self, _directory: str) -> None:
        """Do nothing: the model is written in our layout at the end."""

    def write_checkpoint(self: Any) -> None:
        """Write trlx's checkpoint and the state that it does not contain."""
        folder = self.run.checkpoints.folder(self.iter_count)
        # its safetensors cannot hold tied weights
        self.accelerator.save_state(str(folder), safe_serialization=False)
        self.accelerator.wait_for_everyone()
        if is_main_process():
            self.run.checkpoints.finish(self.state())

    def trained_tensors(self: Any) -> dict[str, Tensor]:
        """The policy's tensors by their names in transformers.  Every rank must call this."""
        tensors = self.accelerator.get_state_dict(self.model)
        return {
            name.removeprefix(POLICY_PREFIX): tensor for name, tensor in tensors.items() if self.is_policy_tensor(name)
        }

    def is_policy_tensor(self, name: str) -> bool:
        """Whether a tensor of the trainer's model belongs to the policy."""
        return name.startswith(POLICY_PREFIX)
