"""The share of a machine's peak rates that a stage reaches: measured by the benchmark, else assumed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlhf.config import RunConfig
from rlhf.errors import UserError
from rlhf.planning.machines import Machine
from rlhf.storage.untrusted import parse_json, read_regular_file

BENCHMARK = "bench.json"
"""File that `make bench` writes to the workspace runs/."""
MAX_BENCHMARK_BYTES = 1_000_000
"""Largest such file that is read; one has some thousand."""
TRAINING_SHARE = 0.35
"""Share of the peak of dense matrix products in training.  Assumed: published runs of billions of parameters on A100
report 0.3 to 0.5, less with short sequences."""
FORWARD_SHARE = 0.45
"""The same for forward passes: scoring, and prompts before decoding.  Assumed."""
BANDWIDTH_SHARE = 0.6
"""Share of the memory bandwidth while decoding, which reads all weights for each token.  Assumed."""
INTERCONNECT_SHARE = 0.6
"""Share of the bandwidth between GPUs.  Assumed: NCCL's own tests reach 0.7 to 0.8 with large messages."""
CPU_SHARE = 0.24
"""Share of a CPU's peak of matrix products, over a complete PPO step: LOG.md."""


@dataclass(frozen=True)
class Throughput:
    """Rates that one rank reaches."""

    training: float
    """Operations per second in training."""
    forward: float
    """Operations per second in forward passes."""
    memory: float
    """Bytes per second from memory."""
    interconnect: float
    """Bytes per second to other ranks."""
    source: str


def read_benchmark(path: Path) -> dict[str, float]:
    """Metrics of `make bench`, empty if it has not run.  Raises UserError if the file is something else."""
    if not path.is_file():
        return {}
    try:
        metrics = parse_json(read_regular_file(path, MAX_BENCHMARK_BYTES))
        rates = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
        if not all(map(math.isfinite, rates.values())):
            raise ValueError("a metric is a finite number")
        return rates
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: not the metrics of a benchmark; delete it, or run `make bench` again") from error


def throughput_of(machine: Machine, config: RunConfig, benchmark: Mapping[str, float]) -> Throughput:
    """Rates that one rank of the run reaches on `machine`."""
    compute = config.compute
    interconnect = INTERCONNECT_SHARE * (
        machine.interconnect_bandwidth
        if compute.machines == 1
        else min(machine.interconnect_bandwidth, machine.network_bandwidth)
    )
    memory = BANDWIDTH_SHARE * machine.memory_bandwidth
    peak = machine.flops[config.model.dtype]
    if machine.gpus:
        return Throughput(
            training=TRAINING_SHARE * peak,
            forward=FORWARD_SHARE * peak,
            memory=memory,
            interconnect=interconnect,
            source=f"assumed shares of the peaks: training {TRAINING_SHARE:.0%}, forward {FORWARD_SHARE:.0%}, memory "
            f"{BANDWIDTH_SHARE:.0%}, between GPUs {INTERCONNECT_SHARE:.0%}",
        )
    measured = "ppo.matmul_peak_gflops" in benchmark and "ppo.matmul_share" in benchmark
    products = 1e9 * benchmark["ppo.matmul_peak_gflops"] if measured else peak * compute.threads
    share = benchmark["ppo.matmul_share"] if measured else CPU_SHARE
    origin = "runs/bench.json" if measured else f"assumed for {compute.threads} threads, share from LOG.md"
    return Throughput(
        training=share * products,
        forward=share * products,
        memory=memory,
        interconnect=interconnect,
        source=f"{share:.0%} of {products / 1e9:.0f} GFLOP/s: {origin}",
    )
