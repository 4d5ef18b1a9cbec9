"""How much of a machine's peaks a stage reaches: measured where the benchmark was, else assumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlhf.config import RunConfig
from rlhf.errors import UserError
from rlhf.planning.machines import Machine

BENCHMARK = "bench.json"
"""What `make bench` writes into the workspace runs/."""
TRAINING_SHARE = 0.35
"""Of the peak of dense products, in training.  Assumed: published runs of billions of parameters on A100 report 0.3 to
0.5, short sequences less."""
READING_SHARE = 0.45
"""The same without gradients: scoring, and reading of prompts.  Assumed."""
BANDWIDTH_SHARE = 0.6
"""Of the memory's bandwidth, where a token is drawn and all weights are read for it.  Assumed."""
LINK_SHARE = 0.6
"""Of the bandwidth between GPUs.  Assumed: NCCL's own tests reach 0.7 to 0.8 with large messages."""
CPU_SHARE = 0.24
"""Of the peak of matrix products on a CPU, over a whole PPO step: LOG.md."""


@dataclass(frozen=True)
class Rates:
    """What one process reaches."""

    training: float
    """Operations per second."""
    reading: float
    """Operations per second without gradients."""
    memory: float
    """Bytes per second."""
    link: float
    """Bytes per second to the other processes."""
    source: str


def read_benchmark(path: Path) -> dict[str, float]:
    """The figures of `make bench`; none where it has not run.  Raises UserError where the file is something else."""
    if not path.is_file():
        return {}
    try:
        figures = json.loads(path.read_bytes())
        return {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}
    except (ValueError, AttributeError):
        raise UserError(f"{path}: not the figures of a benchmark; delete it, or write it again by make bench") from None


def rates_of(machine: Machine, config: RunConfig, benchmark: Mapping[str, float]) -> Rates:
    """What one process of the run reaches on `machine`."""
    compute = config.compute
    link = LINK_SHARE * (
        machine.link_bandwidth if compute.machines == 1 else min(machine.link_bandwidth, machine.network_bandwidth)
    )
    memory = BANDWIDTH_SHARE * machine.memory_bandwidth
    peak = machine.flops[config.model.dtype]
    if machine.gpus:
        return Rates(
            training=TRAINING_SHARE * peak,
            reading=READING_SHARE * peak,
            memory=memory,
            link=link,
            source=f"assumed shares of the peaks: training {TRAINING_SHARE:.0%}, reading {READING_SHARE:.0%}, memory "
            f"{BANDWIDTH_SHARE:.0%}, between GPUs {LINK_SHARE:.0%}",
        )
    measured = "ppo.matmul_peak_gflops" in benchmark and "ppo.matmul_share" in benchmark
    products = 1e9 * benchmark["ppo.matmul_peak_gflops"] if measured else peak * compute.threads
    share = benchmark["ppo.matmul_share"] if measured else CPU_SHARE
    origin = "runs/bench.json" if measured else f"assumed for {compute.threads} threads, share from LOG.md"
    return Rates(
        training=share * products,
        reading=share * products,
        memory=memory,
        link=link,
        source=f"{share:.0%} of {products / 1e9:.0f} GFLOP/s: {origin}",
    )
