"""A fine-tuning stage around trlx: inputs made converted, the run, the model in our layout."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

from rlhf.errors import UserError
from rlhf.runtime.metrics_log import MetricsLog
from rlhf.runtime.stage import is_main_process, note
from rlhf.stage_config import SftStage
from rlhf.storage.files import read_jsonl
from rlhf.training.trlx_trainer.batching import Sample, training_samples
from rlhf.training.trlx_trainer.checkpoints import Checkpoints
from rlhf.training.trlx_trainer.conversion import convert_for_trlx, write_trained_model
from rlhf.training.trlx_trainer.launch import longest_text, prepare_processes
from rlhf.training.trlx_trainer.sft_trainer import SftRun, fine_tune
from rlhf.training.trlx_trainer.trlx_config import sft_settings

METRICS = "metrics.jsonl"
EXTRA_TOKENS = 8
"""Tokens that a sample may have beyond its text: EOS, and tokens that do not merge at the response boundary."""


def train(config: SftStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Train to the end, from a checkpoint if there is one; writes model/ and metrics.jsonl to `output`."""
    if not (output / "model").is_dir():
        run_trlx(config, inputs, output)
    rows = cast(list[dict[str, float]], read_jsonl(output / METRICS))
    measured = [row["validation_loss"] for row in rows if "validation_loss" in row]
    return {"validation_loss_first": measured[0], "validation_loss_last": measured[-1], "steps": rows[-1]["step"]}


def run_trlx(config: SftStage, inputs: dict[str, Path], output: Path) -> None:
    """Train and write the model."""
    processes = prepare_processes()
    source, checkpoints = inputs["model"] / "model", Checkpoints(output, keep=2)
    converted = checkpoints.root / "converted"
    with processes.main_process_first():
        if is_main_process():
            convert_for_trlx(source, converted)
        found = checkpoints.newest()
    resume, resumed = found or (None, None)
    if config.sft.warmup_steps:
        note("trlx has no warm-up: sft.warmup_steps has no effect")
    samples, validation_samples = (
        read_samples(inputs["data"] / name) for name in ("demonstrations.jsonl", "validation_demonstrations.jsonl")
    )
    steps = math.ceil(config.sft.epochs * len(samples) / config.sft.batch_size)
    steps = min(steps, config.sft.max_steps or steps)
    done = resumed.iteration if resumed else 0
    run = SftRun(
        output=output,
        checkpoints=checkpoints,
        resumed=resumed,
        steps=steps,
        epochs_per_step=config.sft.batch_size / len(samples),
        validation_samples=validation_samples,
        metrics=MetricsLog(output / METRICS, done if resumed else None),
    )
    order = training_samples(samples, batch_size=config.sft.batch_size, steps=steps, seed=config.seed)
    settings = sft_settings(
        config.sft,
        model=converted,
        checkpoints=checkpoints.root,
        tokens=longest_text(
            converted, [prompt + response for prompt, response in samples + validation_samples], EXTRA_TOKENS
        ),
        steps=steps,
        processes=processes.num_processes,
        seed=config.seed + done,
    )
    tensors = fine_tune(settings, run, order[done * config.sft.batch_size :], resume)
    if is_main_process():
        write_trained_model(source, tensors, output / "model")
    processes.wait_for_everyone()


def read_samples(path: Path) -> list[Sample]:
    """Prompt and response of each row; raises UserError if there is no row."""
    samples = [[str(row["prompt"]), str(row["response"])] for row in read_jsonl(path)]
    if not samples:
        raise UserError(f"{path}: no rows to train on or to validate with; give more data, or raise data.max_pairs")
    return samples
