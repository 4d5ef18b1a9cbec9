"""SFT by trlx: its trainer with our data, files and checkpoints."""

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
from rlhf.runtime.metrics_log import MetricsLog
from rlhf.runtime.stage import progress
from rlhf.training.trlx_trainer.batching import Sample
from rlhf.training.trlx_trainer.checkpoints import TrlxState
from rlhf.training.trlx_trainer.trainer_mixin import UPDATE_KEY, RecordingMixin, Resumable

LOG_EVERY = 5
"""Optimizer steps between two rows of metrics; each validation writes one too."""


@dataclass
class SftRun(Resumable):
    """What the trainer needs in addition to its TRLConfig."""

    steps: int
    epochs_per_step: float
    validation_samples: list[Sample]
    metrics: MetricsLog


@register_trainer
class SftTrainer(RecordingMixin, AccelerateSFTTrainer):  # type: ignore[misc]  # trlx is not type-checked
    """trlx's SFT trainer, which also records metrics and the validation loss."""

    run: SftRun

    def __init__(self, config: TRLConfig, *, run: SftRun, **arguments: Any) -> None:
        super().__init__(config, **arguments)
        self.begin_recording(run)
        self.losses: list[float] = []
        self.validation_loss: float | None = None

    def is_policy_tensor(self, _name: str) -> bool:
        """True: every tensor of this model belongs to the policy."""
        return True

    def record_update(self, stats: dict[str, Any], step: int) -> None:
        """Record the metrics of an optimizer step."""
        self.losses.append(float(stats["loss"]))
        self.check_finite(self.losses[-1])
        if step % LOG_EVERY == 0 or step == 1 or self.validation_loss is not None:
            self.write_row({"loss": fmean(self.losses), "learning_rate": float(stats[UPDATE_KEY])})
            self.losses = []
        progress("fine-tuning", step, self.run.steps, loss=float(stats["loss"]))

    def write_row(self, metrics: dict[str, float]) -> None:
        """Write a row, with the validation loss if it was just measured."""
        if self.validation_loss is not None:
            metrics["validation_loss"] = self.validation_loss
        self.validation_loss = None
        step = self.iter_count
        self.run.metrics.write({"step": step, "epoch": step * self.run.epochs_per_step, **metrics})

    def validate(self) -> dict[str, float]:
        """Measure the validation loss, in nats per token; trlx would generate responses here."""
        self.validation_loss = measure_validation_loss(self)
        self.check_finite(self.validation_loss)
        if self.iter_count == 0:
            self.write_row({})
        return {}

    def check_finite(self, loss: float) -> None:
        """Raise UserError if a loss is not finite."""
        if not math.isfinite(loss):
            raise UserError(f"fine-tuning: the loss at step {self.iter_count} is {loss}; lower sft.learning_rate")

    def state(self) -> TrlxState:
        """The state that a checkpoint of trlx does not contain."""
        return TrlxState(iteration=self.iter_count)


@torch.no_grad()
def measure_validation_loss(trainer: SftTrainer) -> float:
    """Mean loss over the batches of validation samples; every rank measures all of them."""
    train = trainer.config.train
    store = DialogStore(
        [
            tokenize_dialogue(list(sample), trainer.tokenizer, train.seq_length)
            for sample in trainer.run.validation_samples
        ],
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
