"""Measures seconds, memory and the machine's limits, in child processes that run one after another."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from tests.support.paths import ROOT

MEASURED = "@measured "
"""Begins the line on which a child process reports its measurements."""
CPU = torch.device("cpu")
RESET_PEAK = "5"
"""Written to /proc/self/clear_refs, it resets the peak (Linux, Documentation/filesystems/proc.rst)."""


class Measured(BaseModel):
    """Measurements of one side."""

    model_config = ConfigDict(frozen=True)
    seconds: dict[str, float]
    """Seconds by phase, in order."""
    cpu_seconds: float
    """CPU time of all threads over all phases; least affected by other work on the machine."""
    peak_bytes: int
    """Peak resident memory of the work, above that after the imports; on a GPU, the peak that torch allocated."""
    metrics: dict[str, float] = {}
    """Metrics that only one side has."""

    @property
    def total(self) -> float:
        """Seconds of all phases together."""
        return sum(self.seconds.values())


def run_child(module: str, arguments: Sequence[str], *, threads: int, python: str = sys.executable) -> Measured:
    """Run `module` with `python` in a child process and return its measurements."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    command = [python, "-m", module, *arguments]
    result = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    (line,) = (line for line in result.stdout.splitlines() if line.startswith(MEASURED))
    return Measured.model_validate(json.loads(line.removeprefix(MEASURED)))


def print_measured(measured: Measured) -> None:
    """Report to `run_child`."""
    sys.stdout.write(MEASURED + measured.model_dump_json() + "\n")


def best(runs: Sequence[Measured]) -> Measured:
    """The fewest seconds of each phase, which are least disturbed by other work on the machine; the largest peak."""
    return Measured(
        seconds={phase: min(run.seconds[phase] for run in runs) for phase in runs[0].seconds},
        cpu_seconds=min(run.cpu_seconds for run in runs),
        peak_bytes=max(run.peak_bytes for run in runs),
    )


class Gauge:
    """Peak memory of this process: on a CPU, resident memory above that at construction; on a GPU, torch's memory."""

    def __init__(self, device: torch.device = CPU) -> None:
        self.device = device
        self.baseline = status_bytes("VmRSS")

    def begin(self) -> None:
        """Reset the peak."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            Path("/proc/self/clear_refs").write_text(RESET_PEAK)

    def peak_bytes(self) -> int:
        """The peak since `begin`."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return status_bytes("VmHWM") - self.baseline


def timed(device: torch.device, function: Callable[[], object]) -> float:
    """Seconds of a call, including its work on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def fastest(device: torch.device, function: Callable[[], object], seconds: float = 1.0) -> float:
    """The fewest seconds of a call: after a warm-up call, it is repeated for `seconds`."""
    function()
    least, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        least = min(least, timed(device, function))
    return least


def matmul_peak(
    threads: int, size: int = 1024, *, device: torch.device = CPU, dtype: torch.dtype = torch.float32
) -> float:
    """The highest operations per second of a square matrix product; on a CPU with `threads` threads."""
    torch.set_num_threads(threads)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / fastest(device, lambda: torch.mm(left, right))


def copy_bandwidth(device: torch.device, gigabytes: float) -> float:
    """Bytes per second that a large copy reads and writes."""
    source = torch.zeros(int(gigabytes * 1e9), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / fastest(device, lambda: target.copy_(source))


def status_bytes(name: str, process: int | str = "self") -> int:
    """Bytes in a line of /proc/PID/status, such as the peak resident memory VmHWM."""
    match = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    assert match, name
    return int(match[1]) * 1024
