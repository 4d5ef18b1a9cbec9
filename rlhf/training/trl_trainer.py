"""Runs TRL's trainers for SFT and the reward model: arguments, checkpoints, metrics, resuming.

The training loop is transformers' Trainer with TRL's losses.  The optimizer is AdamW (0.9, 0.999) with gradients
clipped to norm 1; the learning rate rises during warm-up and then falls linearly to 0.  With dtype bfloat16 the forward
pass runs in bfloat16 and the weights are trained in float32, because bfloat16 would round away a step of 1e-5.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from datasets import Dataset
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rlhf.config import TrainingConfig, require_multiple
from rlhf.errors import UserError
from rlhf.models.limits import RECOMPUTE_FROM_PARAMETERS, total_steps
from rlhf.models.loading import Dtype
from rlhf.runtime.distributed import init_distributed
from rlhf.runtime.metrics_log import MetricsLog
from rlhf.runtime.stage import is_main_process, note, progress
from rlhf.runtime.trackers import log_metrics
from rlhf.storage.artifacts import CHECKPOINTS
from rlhf.storage.files import read_jsonl
from rlhf.training.checkpoint_record import (
    discard_damaged,
    find_damage,
    read_record,
    remove_checkpoint,
    write_record,
)

METRICS = "metrics.jsonl"
LOG_EVERY = 5
"""Optimizer steps between two rows of metrics; every validation and checkpoint adds a row too."""

EncodedRow = dict[str, list[int]]
"""Token ids by column."""


def training_order(lengths: Sequence[int], *, batch_size: int, steps: int, seed: int) -> list[int]:
    """Row indices in training order: `steps` batches of `batch_size` rows; every epoch has its own shuffle.

    Rows that do not fill a batch come first in the next epoch.  Rows of a batch are sorted by length, so that a
    micro-batch needs little padding; the optimizer step is the same.
    """
    generator = random.Random(seed)
    order: list[int] = []
    while len(order) < steps * batch_size:
        order += generator.sample(range(len(lengths)), len(lengths))
    starts = range(0, steps * batch_size, batch_size)
    batches = [sorted(order[start : start + batch_size], key=lambda row: lengths[row]) for start in starts]
    return list(itertools.chain.from_iterable(batches))


def training_rows(encoded: list[EncodedRow], settings: TrainingConfig, seed: int) -> Dataset:
    """All training rows, in training order, repeated for every epoch."""
    steps = total_steps(settings, len(encoded))
    order = training_order(_lengths(encoded), batch_size=settings.batch_size, steps=steps, seed=seed)
    return Dataset.from_list(encoded).select(order)


def validation_rows(encoded: list[EncodedRow]) -> Dataset:
    """The validation rows, sorted by length so that batches need little padding."""
    lengths = _lengths(encoded)
    return Dataset.from_list(encoded).select(sorted(range(len(encoded)), key=lambda row: lengths[row]))


def _lengths(encoded: list[EncodedRow]) -> list[int]:
    return [max(len(ids) for ids in row.values()) for row in encoded]


def training_arguments(
    settings: TrainingConfig, *, model: PreTrainedModel, dtype: Dtype, seed: int, output: Path
) -> dict[str, Any]:
    """Arguments for both SFTConfig and RewardConfig of TRL.

    Raises UserError if `batch_size` cannot be split evenly over the ranks.
    """
    state = init_distributed()
    parallel_rows = settings.device_batch_size * state.num_processes
    require_multiple("batch_size", settings.batch_size, "device_batch_size x compute.processes", parallel_rows)
    on_cpu = state.device.type == "cpu"
    return {
        "output_dir": str(output / CHECKPOINTS),
        "num_train_epochs": 1,  # `training_rows` repeats the rows
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": settings.device_batch_size,
        "per_device_eval_batch_size": settings.device_batch_size,
        "gradient_accumulation_steps": settings.batch_size // parallel_rows,
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "warmup_steps": settings.warmup_steps,
        "lr_scheduler_type": "linear",
        "seed": seed,
        "bf16": dtype == "bfloat16",
        "activation_checkpointing": model.num_parameters() >= RECOMPUTE_FROM_PARAMETERS,
        "ddp_find_unused_parameters": False,
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "eval_strategy": "steps",
        "eval_steps": settings.checkpoint_every,
        "save_strategy": "steps",
        "save_steps": settings.checkpoint_every,
        "save_total_limit": 2,
        "logging_steps": LOG_EVERY,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # it would replace a diverged loss by the mean of earlier ones
        "max_length": None,
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
    }


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of one of prepare_data's files; raises UserError if there are none."""
    rows = read_jsonl(path)
    if not rows:
        raise UserError(f"{path}: no rows to train or validate on; give more data, or raise data.max_pairs")
    return cast(list[dict[str, str]], rows)


def train(trainer: Trainer, phase: str, output: Path, *, epochs_per_step: float) -> Path:
    """Train from the newest intact checkpoint, or from the start; returns the folder of the float32 weights.

    Writes rows to `output`/metrics.jsonl: {step, epoch, loss, learning_rate, tokens_per_second, ...} every LOG_EVERY
    steps, and validation_* before the first step, at each checkpoint and after the last step.
    Raises UserError if the loss is not finite.
    """
    with trainer.accelerator.main_process_first():
        if is_main_process():
            remove_unusable(output)
        checkpoint = newest_checkpoint(output)
    if checkpoint is not None:
        note(f"resuming after step {_step_of(checkpoint)}")
    metrics = MetricsLog(output / METRICS, _step_of(checkpoint) if checkpoint else None, log_metrics)
    trainer.args.eval_on_start = checkpoint is None
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Recorder(phase, metrics, epochs_per_step))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    final = output / CHECKPOINTS / "final"
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(final))
    return final


def newest_checkpoint(output: Path) -> Path | None:
    """The complete checkpoint with the highest step in a stage's output, or None."""
    return max(_complete_checkpoints(output), key=_step_of, default=None)


def remove_unusable(output: Path) -> None:
    """Remove the checkpoints that a killed process could not complete, and damaged ones that are newer than an intact.

    For each damaged one, and if none is left, there is a line for the user.
    """
    complete = _complete_checkpoints(output)
    for folder in set((output / CHECKPOINTS).glob("checkpoint-*")) - set(complete):
        remove_checkpoint(folder)
    for folder in sorted(complete, key=_step_of, reverse=True):
        record = read_record(folder, output)
        damage = find_damage(folder, record) if record else "checkpoint.json was changed"
        if damage is None:
            return
        discard_damaged(folder, damage)
    if complete:
        note(f"{output / CHECKPOINTS}: no intact checkpoint is left; the training starts again")


def _complete_checkpoints(output: Path) -> list[Path]:
    complete = []
    for folder in (output / CHECKPOINTS).glob("checkpoint-*"):
        record = read_record(folder, output)
        if record is not None and folder.name == f"checkpoint-{record.step}":
            complete.append(folder)
    return complete


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


class _Recorder(TrainerCallback):  # type: ignore[misc]  # transformers is not type-checked
    """Writes metrics, reports progress and marks checkpoints as complete."""

    def __init__(self, phase: str, metrics: MetricsLog, epochs_per_step: float) -> None:
        self.phase = phase
        self.metrics = metrics
        self.epochs_per_step = epochs_per_step
        self.row: dict[str, float] = {}  # of the current step, not yet written
        self.shown: dict[str, float] = {}  # metrics shown with the progress
        self.tokens = 0.0
        self.since = time.monotonic()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._write_row()

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        progress(self.phase, state.global_step, state.max_steps, **self.shown)
        control.should_log |= control.should_evaluate or control.should_save
        if state.global_step >= state.max_steps:
            # The model is saved next; a Trainer that is resumed after its last step would take one step more.
            control.should_save = False

    def on_log(self, _args: TrainingArguments, state: TrainerState, *_: Any, logs: dict[str, float], **__: Any) -> None:
        now = time.monotonic()
        if "loss" in logs:
            self._require_finite(logs["loss"], state.global_step)
            metrics = {name: value for name, value in logs.items() if name not in ("epoch", "num_tokens")}
            metrics["tokens_per_second"] = (logs["num_tokens"] - self.tokens) / max(now - self.since, 1e-9)
            self.tokens = logs["num_tokens"]
            self.shown = {name: logs[name] for name in ("loss", "accuracy") if name in logs}
        elif "eval_loss" in logs:
            self._require_finite(logs["eval_loss"], state.global_step)
            metrics = {
                name.replace("eval_", "validation_"): value
                for name, value in logs.items()
                if name.startswith("eval_") and not name.endswith(("runtime", "per_second", "num_tokens"))
            }
        else:  # the Trainer's summary at the end
            return
        self.row |= {"step": state.global_step, "epoch": state.global_step * self.epochs_per_step, **metrics}
        self.since = now

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        self._write_row()
        init_distributed().wait_for_everyone()
        if is_main_process():
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_record(folder, folder.parents[1], state.global_step)
        self.since = time.monotonic()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._write_row()

    def _write_row(self) -> None:
        if self.row:
            self.metrics.write(self.row)
        self.row = {}

    def _require_finite(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f"{self.phase}: the loss at step {step} is {loss}; lower learning_rate or raise warmup_steps"
            )
