"""PPO on one GPU: GPT-J-6B's exact architecture with random bfloat16 weights, compared with the reference loop.

Nothing is downloaded; 24 GB of weights are written to a temporary folder.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.table import Table

from rlhf.errors import UserError
from tests.benchmarks.measure import Measured, copy_bandwidth, matmul_peak, run_child
from tests.benchmarks.part import Options, Result
from tests.benchmarks.ppo import ENGINE, REFERENCE, training_flops
from tests.benchmarks.work import Work, make_inputs

GPTJ_6B = Work(
    hidden_size=4096,
    num_layers=28,
    num_heads=16,
    rotary_size=64,
    vocab_size=50400,
    prompt_tokens=384,
    response_tokens=128,
    rollouts=64,
    dtype="bfloat16",
    warm_up=True,
)
GIGA = 1e9


def run(options: Options) -> Result:
    """Run both sides once, each after a warm-up step; raises UserError if there is no GPU."""
    if not torch.cuda.is_available():
        raise UserError("--gpu-6b needs a GPU with 80 GB of memory, and torch finds none")
    return run_on(GPTJ_6B, torch.device("cuda"), threads=options.threads)


def run_on(work: Work, device: torch.device, *, threads: int) -> Result:
    """Metrics of `work` on `device`."""
    with TemporaryDirectory() as folder:
        make_inputs(Path(folder), work, device)
        sides = {
            "reference": run_child(REFERENCE, [folder], threads=threads),
            "ours": run_child(ENGINE, [folder], threads=threads),
        }
    dtype = torch.bfloat16 if work.dtype == "bfloat16" else torch.float32
    size = 8192 if device.type == "cuda" else 256
    peak = matmul_peak(threads, size=size, device=device, dtype=dtype)
    bandwidth = copy_bandwidth(device, gigabytes=4 if device.type == "cuda" else 0.05)
    metrics = _metrics(work, sides, peak=peak, bandwidth=bandwidth)
    return Result(metrics=metrics, tables=[_table(work, sides, metrics)])


def decode_bytes(work: Work) -> float:
    """Bytes that decoding all responses in one batch must read after the prompts: weights, and keys and values."""
    block = 12 * work.hidden_size**2 + 7 * work.hidden_size
    weights = work.num_layers * block + work.vocab_size * work.hidden_size
    steps = work.response_tokens - 1
    cached_tokens = sum(work.prompt_tokens + step for step in range(1, steps + 1))
    return work.weight_bytes * (
        steps * weights + work.rollouts * cached_tokens * 2 * work.num_layers * work.hidden_size
    )


def _metrics(work: Work, sides: dict[str, Measured], *, peak: float, bandwidth: float) -> dict[str, float]:
    sequence_tokens = work.rollouts * work.sequence_tokens
    tokens = {
        "generate": work.rollouts * work.response_tokens,
        "score": sequence_tokens,
        "evaluate": sequence_tokens,
        "train": sequence_tokens * work.epochs,
    }
    metrics = {"rollouts": float(work.rollouts)}
    for name, side in sides.items():
        for phase, seconds in side.seconds.items():
            metrics[f"{name}.{phase}_seconds"] = seconds
            metrics[f"{name}.{phase}_tokens_per_second"] = tokens[phase] / seconds
        metrics[f"{name}.rollouts_per_second"] = work.rollouts / side.total
        metrics[f"{name}.peak_bytes"] = float(side.peak_bytes)
    ours, reference = sides["ours"], sides["reference"]
    decode_seconds = max(ours.seconds["generate"] - ours.metrics["prefill_seconds"], 1e-9)
    limit_seconds = decode_bytes(work) / bandwidth
    return metrics | {
        "ratio": reference.total / ours.total,
        "training_ratio": reference.seconds["train"] / ours.seconds["train"],
        "copy_gigabytes_per_second": bandwidth / GIGA,
        "matmul_peak_gflops": peak / GIGA,
        "ours.prefill_seconds": ours.metrics["prefill_seconds"],
        "ours.decode_seconds": decode_seconds,
        "ours.decode_limit_seconds": limit_seconds,
        "ours.decode_seconds_over_limit": decode_seconds / limit_seconds,
        "ours.training_mfu": training_flops(work) / ours.seconds["train"] / peak,
    }


def _table(work: Work, sides: dict[str, Measured], metrics: dict[str, float]) -> Table:
    table = Table(
        title=f"PPO on a GPU, {work.rollouts} rollouts of {work.prompt_tokens} + {work.response_tokens} tokens"
    )
    table.add_column("")
    for name in sides:
        table.add_column(name, justify="right")
    for phase in sides["ours"].seconds:
        for unit in ("seconds", "tokens_per_second"):
            cells = [f"{metrics[f'{name}.{phase}_{unit}']:.2f}" for name in sides]
            table.add_row(f"{phase} {unit.replace('_', ' ')}", *cells)
    table.add_row("rollouts per second", *(f"{metrics[f'{name}.rollouts_per_second']:.2f}" for name in sides))
    table.add_row("peak GB", *(f"{side.peak_bytes / GIGA:.1f}" for side in sides.values()))
    table.caption = (
        f"ratio {metrics['ratio']:.2f}, training {metrics['training_ratio']:.2f}; decoding took "
        f"{metrics['ours.decode_seconds_over_limit']:.2f} x the time of reading weights, keys and values at "
        f"{metrics['copy_gigabytes_per_second']:.0f} GB/s; training MFU {metrics['ours.training_mfu']:.0%} of "
        f"{metrics['matmul_peak_gflops'] / 1e3:.0f} TFLOP/s"
    )
    return table
