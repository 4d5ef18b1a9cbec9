"""A fine-tuning stage around trlx: inputs made readable, the run, the model in our layout."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

from rlhf.errors import UserError
from rlhf.runtime.metrics_log import StepLog
from rlhf.runtime.stage import is_main_process, note
from rlhf.stage_config import SftStage
from rlhf.storage.files import read_jsonl
from rlhf.training.trlx_trainer.batching import Sample, training_samples
from rlhf.training.trlx_trainer.checkpoints import Checkpoints
from rlhf.training.trlx_trainer.conversion import write_old_layout, write_trained
from rlhf.training.trlx_trainer.launch import prepare_processes, require_room
from rlhf.training.trlx_trainer.sft_trainer import SftRun, fine_tune
from rlhf.training.trlx_trainer.trlx_config import sft_settings

METRICS = "metrics.jsonl"
SEAM_TOKENS = 8
"""By which a sample may be longer than its text: the EOS, and tokens that do not merge across the seam."""


def train(config: SftStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Train to the end, from a checkpoint where there is one; writes model/ and metrics.jsonl to `output`."""
    if not (output / "model").is_dir():
        run_trlx(config, inputs, output)
    rows = cast(list[dict[str, float]], read_jsonl(output / METRICS))
    measured = [row["validation_loss"] for row in rows if "validation_loss" in row]
    return {"validation_loss_first": measured[0], "validation_loss_last": measured[-1], "steps": rows[-1]["step"]}


def run_trlx(config: SftStage, inputs: dict[str, Path], output: Path) -> None:
    """Everything up to the model."""
    processes = prepare_processes()
    source, checkpoints = inputs["model"] / "model", Checkpoints(output, keep=2)
    readable = checkpoints.root / "readable"
    with processes.main_process_first():
        if is_main_process():
            write_old_layout(source, readable)
    found = checkpoints.newest()
    resume, resumed = found or (None, None)
    if config.sft.warmup_steps:
        note("trlx has no warm-up: sft.warmup_steps has no effect")
    samples, held_out = (
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
        held_out=held_out,
        metrics=StepLog(output / METRICS, done if resumed else None),
    )
    order = training_samples(samples, batch_size=config.sft.batch_size, steps=steps, seed=config.seed)
    settings = sft_settings(
        config.sft,
        model=readable,
        checkpoints=checkpoints.root,
        tokens=require_room(readable, [prompt + answer for prompt, answer in samples + held_out], SEAM_TOKENS),
        steps=steps,
        processes=processes.num_processes,
        seed=config.seed + done,
    )
    tensors = fine_tune(settings, run, order[done * config.sft.batch_size :], resume)
    if is_main_process():
        write_trained(source, tensors, output / "model")
    processes.wait_for_everyone()


def read_samples(path: Path) -> list[Sample]:
    """Prompt and answer of each row; raises UserError where there is none."""
    samples = [[str(row["prompt"]), str(row["answer"])] for row in read_jsonl(path)]
    if not samples:
        raise UserError(f"{path}: no rows to train on or to measure with; give more data, or raise data.max_pairs")
    return samples
