"""Fine-tuning by trlx: its trainer on our rows, files and checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import trlx
from trlx.data.configs import TRLConfig
from trlx.pipeline.offline_pipeline import DialogStore, tokenize_dialogue
from trlx.trainer import register_trainer
from trlx.trainer.accelerate_sft_trainer import AccelerateSFTTrainer

from rlhf.errors import UserError
from rlhf.runtime.metrics_log import StepLog
from rlhf.runtime.stage import progress
from rlhf.training.trlx_trainer.batching import Sample
from rlhf.training.trlx_trainer.checkpoints import State
from rlhf.training.trlx_trainer.trainer_mixin import OF_UPDATE, Recorded, Resumable

LOG_EVERY = 5
"""Optimizer steps between two rows of metrics; there is one at every measurement too."""


@dataclass
class SftRun(Resumable):
    """What the trainer needs besides its TRLConfig."""

    steps: int
    epochs_per_step: float
    held_out: list[Sample]
    metrics: StepLog


@register_trainer
class SftTrainer(Recorded, AccelerateSFTTrainer):  # type: ignore[misc]  # trlx is not type-checked
    """trlx's trainer for fine-tuning that records and measures the held-out loss."""

    run: SftRun

    def __init__(self, config: TRLConfig, *, run: SftRun, **given: Any) -> None:
        super().__init__(config, **given)
        self.begin_recording(run)
        self.losses: list[float] = []
        self.validation_loss: float | None = None

    def of_policy(self, _name: str) -> bool:
        """Every tensor: there is nothing else in the model."""
        return True

    def record_update(self, stats: dict[str, Any], step: int) -> None:
        """Figures of an optimizer step."""
        self.losses.append(float(stats["loss"]))
        self.refuse_divergence(self.losses[-1])
        if step % LOG_EVERY == 0 or step == 1 or self.validation_loss is not None:
            self.write_row({"loss": fmean(self.losses), "learning_rate": float(stats[OF_UPDATE])})
            self.losses = []
        progress("fine-tuning", step, self.run.steps, loss=float(stats["loss"]))

    def write_row(self, figures: dict[str, float]) -> None:
        """Write a row, with the held-out loss where it was just measured."""
        if self.validation_loss is not None:
            figures["validation_loss"] = self.validation_loss
        self.validation_loss = None
        step = self.iter_count
        self.run.metrics.write({"step": step, "epoch": step * self.run.epochs_per_step, **figures})

    def measure(self) -> dict[str, float]:
        """Mean loss over the batches of held-out samples, in nats per token, instead of answers to nothing."""
        self.validation_loss = held_out_loss(self)
        self.refuse_divergence(self.validation_loss)
        if self.iter_count == 0:
            self.write_row({})
        return {}

    def refuse_divergence(self, loss: float) -> None:
        """Raise UserError where a loss is no number."""
        if not math.isfinite(loss):
            raise UserError(f"fine-tuning: the loss at step {self.iter_count} is {loss}; lower sft.learning_rate")

    def state(self) -> State:
        """What a checkpoint of trlx lacks."""
        return State(iteration=self.iter_count)


@torch.no_grad()
def held_out_loss(trainer: SftTrainer) -> float:
    """Mean over the batches of held-out samples, which every process measures for itself."""
    train = trainer.config.train
    store = DialogStore(
        [tokenize_dialogue(list(sample), trainer.tokenizer, train.seq_length) for sample in trainer.run.held_out],
        trainer.tokenizer,
    )
    losses = [
        trainer.loss(batch.to(trainer.accelerator.device))[1]["loss"] for batch in store.create_loader(trainer.mb_size)
    ]
    return fmean(losses)


def fine_tune(settings: dict[str, Any], run: SftRun, samples: list[Sample], resume: Path | None) -> dict[str, Any]:
    """Run trlx to the end; returns the trained tensors."""
    settings["train"] |= {
        "resume_from_checkpoint": str(resume) if resume else None,
        "trainer_kwargs": {"run": run},
    }
    trainer: SftTrainer = trlx.train(samples=samples, eval_prompts=[""], config=TRLConfig.from_dict(settings))
    return trainer.trained_tensors()
