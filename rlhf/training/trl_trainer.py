"""What supervised fine-tuning and reward modelling share: arguments, checkpoints, metrics, resuming.

The loop is transformers' Trainer with TRL's losses.  Its optimizer is AdamW (0.9, 0.999) with gradients clipped to
norm 1; the learning rate rises over the warm-up and then falls linearly to 0.  With dtype bfloat16 the forward pass
runs in bfloat16 and the weights are trained in float32, for a step of 1e-5 would vanish in the rounding of bfloat16.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
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

from rlhf.config import TrainingConfig
from rlhf.errors import UserError
from rlhf.models.loading import Dtype
from rlhf.runtime.stage import is_main_process, progress
from rlhf.runtime.trackers import track
from rlhf.storage.artifacts import CHECKPOINTS
from rlhf.storage.files import read_jsonl, write_atomically

METRICS = "metrics.jsonl"
COMPLETE = "complete"
"""File that is written into a checkpoint last.  A checkpoint without it is a torn one."""
LOG_EVERY = 5
"""Optimizer steps between two rows of metrics; there is one at every measurement and checkpoint too."""
RECOMPUTE_FROM_PARAMETERS = 1_000_000_000
"""Models of this size trade a fifth of their speed for the memory of activations."""


EncodedRow = dict[str, list[int]]


def this_process() -> PartialState:
    """This process among those that run the stage, and its device: a GPU, unless there is none or accelerate says CPU.

    accelerate's PartialState alone does not see that it runs on CPUs, and would then count one process of many.
    """
    use_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true")
    return PartialState(cpu=use_cpu or not torch.cuda.is_available())


def total_steps(settings: TrainingConfig, rows: int) -> int:
    """Optimizer steps of the whole training: its epochs, or `max_steps` where that is fewer."""
    steps = math.ceil(settings.epochs * rows / settings.batch_size)
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def training_order(lengths: Sequence[int], *, batch_size: int, steps: int, seed: int) -> list[int]:
    """Which row comes when: `steps` batches of `batch_size` rows, every epoch shuffled anew.

    Rows that fill no batch are the first of the next epoch.  Within a batch rows are sorted by length: what a process
    holds at once then needs little padding, and the optimizer step stays what it is.
    """
    draw = random.Random(seed)
    order: list[int] = []
    while len(order) < steps * batch_size:
        order += draw.sample(range(len(lengths)), len(lengths))
    starts = range(0, steps * batch_size, batch_size)
    batches = [sorted(order[start : start + batch_size], key=lambda row: lengths[row]) for start in starts]
    return list(itertools.chain.from_iterable(batches))


def training_rows(encoded: list[EncodedRow], settings: TrainingConfig, seed: int) -> Dataset:
    """The rows of the whole training, in the order and as often as they are trained on."""
    steps = total_steps(settings, len(encoded))
    order = training_order(_lengths(encoded), batch_size=settings.batch_size, steps=steps, seed=seed)
    return Dataset.from_list(encoded).select(order)


def validation_rows(encoded: list[EncodedRow]) -> Dataset:
    """The rows to measure on, sorted by length for the sake of little padding."""
    lengths = _lengths(encoded)
    return Dataset.from_list(encoded).select(sorted(range(len(encoded)), key=lambda row: lengths[row]))


def _lengths(encoded: list[EncodedRow]) -> list[int]:
    return [max(len(ids) for ids in row.values()) for row in encoded]


def training_arguments(
    settings: TrainingConfig, *, model: PreTrainedModel, dtype: Dtype, seed: int, output: Path
) -> dict[str, Any]:
    """Arguments for TRL's SFTConfig and RewardConfig alike.

    Raises UserError where `batch_size` cannot be made of the processes that run.
    """
    state = this_process()
    held = settings.device_batch_size * state.num_processes
    if settings.batch_size % held:
        raise UserError(
            f"batch_size ({settings.batch_size}) must be a multiple of device_batch_size "
            f"({settings.device_batch_size}) x processes ({state.num_processes})"
        )
    on_cpu = state.device.type == "cpu"
    return {
        "output_dir": str(output / CHECKPOINTS),
        "num_train_epochs": 1,  # of `training_rows`
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": settings.device_batch_size,
        "per_device_eval_batch_size": settings.device_batch_size,
        "gradient_accumulation_steps": settings.batch_size // held,
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
        "logging_nan_inf_filter": False,  # it would replace a diverged loss by the mean of those before it
        "max_length": None,
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
    }


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of one of prepare_data's files; raises UserError where there are none."""
    rows = read_jsonl(path)
    if not rows:
        raise UserError(f"{path}: no rows to train on or to measure with; give more data, or raise data.max_pairs")
    return cast(list[dict[str, str]], rows)


def require_fitting(row: dict[str, str], ids: list[int], model: PreTrainedModel) -> None:
    """Raise UserError where `ids`, made of `row`, are longer than the model's context."""
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and len(ids) > context:
        raise UserError(
            f"row {row['id']} has {len(ids)} tokens, more than the model's context of {context}; lower "
            f"data.max_prompt_tokens and data.max_response_tokens to {context} together"
        )


def train(trainer: Trainer, phase: str, output: Path, *, epochs_per_step: float) -> Path:
    """Train from the newest whole checkpoint, or from the start; returns the folder of the float32 weights.

    Rows go to `output`/metrics.jsonl: {step, epoch, loss, learning_rate, tokens_per_second, ...} every LOG_EVERY
    steps, and validation_* of the held-out rows before the first step, at each checkpoint and after the last step.
    Raises UserError where the loss is no longer a number.
    """
    metrics, checkpoints = output / METRICS, output / CHECKPOINTS
    with trainer.accelerator.main_process_first():
        if is_main_process():
            clear_torn(checkpoints, metrics)
        checkpoint = newest_checkpoint(checkpoints)
    trainer.args.eval_on_start = checkpoint is None
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Recorder(phase, metrics, epochs_per_step))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    final = checkpoints / "final"
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(final))
    return final


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """The whole checkpoint of the latest step, or None."""
    whole = [folder for folder in checkpoints.glob("checkpoint-*") if (folder / COMPLETE).is_file()]
    return max(whole, key=_step_of, default=None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def clear_torn(checkpoints: Path, metrics: Path) -> None:
    """Delete checkpoints that a killed process left half written, and the metrics of steps that come again."""
    for folder in checkpoints.glob("checkpoint-*"):
        if not (folder / COMPLETE).is_file():
            shutil.rmtree(folder)
    newest = newest_checkpoint(checkpoints)
    if newest is None or not metrics.exists():
        metrics.unlink(missing_ok=True)
        return
    whole = [line for line in metrics.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    kept = [line for line in whole if json.loads(line)["step"] <= _step_of(newest)]
    write_atomically(metrics, "".join(line + "\n" for line in kept))


class _Recorder(TrainerCallback):  # type: ignore[misc]  # transformers is not type-checked
    """Writes metrics, tells progress and marks checkpoints as whole."""

    def __init__(self, phase: str, metrics: Path, epochs_per_step: float) -> None:
        self.phase = phase
        self.metrics = metrics
        self.epochs_per_step = epochs_per_step
        self.row: dict[str, float] = {}  # of the present step, not yet written
        self.shown: dict[str, float] = {}  # figures beside the progress
        self.tokens = 0.0
        self.since = time.monotonic()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._write_row()

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        progress(self.phase, state.global_step, state.max_steps, **self.shown)
        control.should_log |= control.should_evaluate or control.should_save
        if state.global_step >= state.max_steps:
            # The model is saved next; and the Trainer, resumed behind its last step, would take one step more.
            control.should_save = False

    def on_log(self, _args: TrainingArguments, state: TrainerState, *_: Any, logs: dict[str, float], **__: Any) -> None:
        now = time.monotonic()
        if "loss" in logs:
            self._require_finite(logs["loss"], state.global_step)
            figures = {name: value for name, value in logs.items() if name not in ("epoch", "num_tokens")}
            figures["tokens_per_second"] = (logs["num_tokens"] - self.tokens) / max(now - self.since, 1e-9)
            self.tokens = logs["num_tokens"]
            self.shown = {name: logs[name] for name in ("loss", "accuracy") if name in logs}
        elif "eval_loss" in logs:
            self._require_finite(logs["eval_loss"], state.global_step)
            figures = {
                name.replace("eval_", "validation_"): value
                for name, value in logs.items()
                if name.startswith("eval_") and not name.endswith(("runtime", "per_second", "num_tokens"))
            }
        else:  # the Trainer's summary at the end
            return
        self.row |= {"step": state.global_step, "epoch": state.global_step * self.epochs_per_step, **figures}
        self.since = now

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        self._write_row()
        this_process().wait_for_everyone()
        if is_main_process():
            write_atomically(Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE, "")
        self.since = time.monotonic()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._write_row()

    def _write_row(self) -> None:
        if self.row and is_main_process():
            with self.metrics.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(self.row) + "\n")
            track(self.row, self.metrics.stem)
        self.row = {}

    def _require_finite(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f"{self.phase}: the loss at step {step} is {loss}; lower learning_rate or raise warmup_steps"
            )
