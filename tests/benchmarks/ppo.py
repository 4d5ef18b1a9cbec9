"""PPO: our engine, a loop structured like trlx's, and trlx itself if TRLX_PYTHON is the Python of its environment."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table

from rlhf.models.sizes import gptj_size
from rlhf.training.ppo.memory import PpoMemory, cpu_kv_cache_budget, decode_batch_size, ppo_memory
from tests.benchmarks.measure import Measured, best, matmul_peak, run_child
from tests.benchmarks.part import Options, Result
from tests.benchmarks.work import Work, make_inputs

ENGINE, REFERENCE, TRLX = (f"tests.benchmarks.ppo_{side}" for side in ("engine", "reference", "trlx"))
LINEAR_ROLLOUTS = (64, 128, 256, 512)
MEGABYTE = 1e6


def run(options: Options) -> Result:
    """Run all sides in turn, `options.repeats` times; the best time of each phase counts."""
    trlx_python = os.environ.get("TRLX_PYTHON")
    work = Work(rollouts=16) if options.quick else Work()
    with TemporaryDirectory() as folder:
        make_inputs(Path(folder), work)
        sides: dict[str, list[Measured]] = {"reference": [], **({"trlx": []} if trlx_python else {}), "ours": []}
        peaks = []
        for _ in range(options.repeats):
            sides["reference"].append(run_child(REFERENCE, [folder], threads=options.threads))
            if trlx_python:
                with TemporaryDirectory() as copy:  # trlx writes models and metrics to it
                    shutil.copytree(folder, copy, dirs_exist_ok=True)
                    sides["trlx"].append(run_child(TRLX, [copy], threads=options.threads, python=trlx_python))
            sides["ours"].append(run_child(ENGINE, [folder], threads=options.threads))
            peaks.append(matmul_peak(options.threads))
    measured = {name: best(runs) for name, runs in sides.items()}
    result = Result(metrics=_metrics(work, measured, max(peaks)), tables=[])
    result.tables.append(_comparison(work, measured, result.metrics))
    if options.linear:
        _linear(options, result)
    return result


def memory_of(work: Work) -> PpoMemory:
    """Memory of the work on a CPU by the formula."""
    batch_size = decode_batch_size(
        work.rollouts,
        max_batch_size=work.stage().ppo.rollout_batch_size,
        bytes_per_row=2 * work.num_layers * work.sequence_tokens * work.hidden_size * work.weight_bytes,
        budget=cpu_kv_cache_budget(work.parameters * work.weight_bytes),
    )
    return ppo_memory(
        gptj_size(work.hidden_size, work.num_layers, work.vocab_size),
        unfrozen_blocks=work.unfrozen_blocks,
        prompt_tokens=work.prompt_tokens,
        response_tokens=work.response_tokens,
        rollouts=work.rollouts,
        decode_batch_size=batch_size,
        minibatch_size=work.minibatch,
        weight_bytes=work.weight_bytes,
    )


def engine_flops(work: Work) -> float:
    """Floating-point operations of our engine's matrix products in a step, without those of attention."""
    block, head = 24 * work.hidden_size**2, 2 * work.hidden_size * work.vocab_size
    tokens, response_tokens = work.rollouts * work.sequence_tokens, work.rollouts * work.response_tokens
    generate = tokens * work.num_layers * block + response_tokens * head
    score = tokens * work.num_layers * block
    return generate + score + 2 * _top_flops(work) + training_flops(work)


def training_flops(work: Work) -> float:
    """Those of training: forward, and twice as many backward."""
    return 3 * work.epochs * _top_flops(work)


def _top_flops(work: Work) -> float:
    """Those of one pass through the top, whose last block computes only keys and values at prompt tokens."""
    width, response_tokens = work.hidden_size, work.rollouts * work.response_tokens
    tokens = work.rollouts * work.sequence_tokens
    last = tokens * 4 * width**2 + response_tokens * 20 * width**2
    return tokens * (work.unfrozen_blocks - 1) * 24 * width**2 + last + response_tokens * 2 * width * work.vocab_size


def _metrics(work: Work, measured: dict[str, Measured], peak: float) -> dict[str, float]:
    memory, ours = memory_of(work), measured["ours"]
    reached = engine_flops(work) / ours.total
    metrics = {
        "rollouts": float(work.rollouts),
        "matmul_peak_gflops": peak / 1e9,
        "matmul_share": reached / peak,
        "resident_bytes": float(memory.resident),
        "memory_ratio": ours.peak_bytes / memory.resident,
        "memory_formula_bytes": float(memory.peak),
    }
    for name, side in measured.items():
        metrics |= {f"{name}.{phase}_seconds": seconds for phase, seconds in side.seconds.items()}
        metrics[f"{name}.rollouts_per_second"] = work.rollouts / side.total
        metrics[f"{name}.peak_bytes"] = float(side.peak_bytes)
    metrics |= _ratios(measured["reference"], ours)
    if "trlx" in measured:
        metrics |= {f"trlx_{name}": ratio for name, ratio in _ratios(measured["trlx"], ours).items()}
    return metrics


def _ratios(other: Measured, ours: Measured) -> dict[str, float]:
    """Time of the other side, as a multiple of ours."""
    return {
        "ratio": other.total / ours.total,
        "training_ratio": other.seconds["train"] / ours.seconds["train"],
        "cpu_ratio": other.cpu_seconds / ours.cpu_seconds,
    }


def _comparison(work: Work, measured: dict[str, Measured], metrics: dict[str, float]) -> Table:
    table = Table(title=f"PPO, {work.rollouts} rollouts of {work.prompt_tokens} + {work.response_tokens} tokens")
    table.add_column("")
    for name in measured:
        table.add_column(name, justify="right")
    for phase in measured["ours"].seconds:
        table.add_row(f"{phase} s", *(f"{side.seconds[phase]:.2f}" for side in measured.values()))
    table.add_row("all s", *(f"{side.total:.2f}" for side in measured.values()))
    table.add_row("rollouts / s", *(f"{work.rollouts / side.total:.2f}" for side in measured.values()))
    table.add_row("peak MB", *(f"{side.peak_bytes / MEGABYTE:.0f}" for side in measured.values()))
    table.caption = (
        f"ratio {metrics['ratio']:.2f}, training {metrics['training_ratio']:.2f}, CPU time {metrics['cpu_ratio']:.2f}; "
        f"{metrics['matmul_share']:.0%} of the matmul peak of {metrics['matmul_peak_gflops']:.0f} GFLOP/s; "
        f"memory {metrics['memory_ratio']:.2f} x weights, optimizer and trunk states"
    )
    if "trlx" in measured:
        table.caption += (
            f"; against trlx {metrics['trlx_ratio']:.2f}, training {metrics['trlx_training_ratio']:.2f}, "
            f"CPU time {metrics['trlx_cpu_ratio']:.2f}"
        )
    return table


def _linear(options: Options, result: Result) -> None:
    table = Table(title="PPO cost against rollouts", caption="linear if seconds per rollout are constant")
    for column in ("rollouts", "seconds", "seconds / rollout", "peak MB"):
        table.add_column(column, justify="right")
    for rollouts in LINEAR_ROLLOUTS:
        with TemporaryDirectory() as folder:
            make_inputs(Path(folder), Work(rollouts=rollouts))
            side = run_child(ENGINE, [folder], threads=options.threads)
        per_rollout = side.total / rollouts
        result.metrics[f"seconds_per_rollout_at_{rollouts}"] = per_rollout
        table.add_row(str(rollouts), f"{side.total:.1f}", f"{per_rollout:.3f}", f"{side.peak_bytes / MEGABYTE:.0f}")
    result.tables.append(table)
