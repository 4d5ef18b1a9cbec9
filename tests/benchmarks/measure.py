"""Seconds, memory and the machine's own limit, measured in child processes that run one after another."""

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
"""Begins the line on which a child tells what it measured."""
CPU = torch.device("cpu")
RESET_PEAK = "5"
"""What /proc/self/clear_refs takes to begin the peak anew (Linux, Documentation/filesystems/proc.rst)."""


class Measured(BaseModel):
    """One side's account of the same work."""

    model_config = ConfigDict(frozen=True)
    seconds: dict[str, float]
    """By phase, in order."""
    cpu_seconds: float
    """Of all threads of the process, over all phases: what other work on the machine changes least."""
    peak_bytes: int
    """Most resident memory while it worked, less what the process had after its imports; on a GPU what torch held."""
    figures: dict[str, float] = {}
    """What one side alone has to tell."""

    @property
    def total(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds.values())


def run_child(module: str, arguments: Sequence[str], *, threads: int, python: str = sys.executable) -> Measured:
    """Run `module` in a process of its own, by `python`, and read what it measured."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    command = [python, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(MEASURED))
    return Measured.model_validate(json.loads(line.removeprefix(MEASURED)))


def tell(measured: Measured) -> None:
    """Hand over to `run_child`."""
    sys.stdout.write(MEASURED + measured.model_dump_json() + "\n")


def best(runs: Sequence[Measured]) -> Measured:
    """The least seconds of each phase, which other work on the machine spoils least; the largest peak."""
    return Measured(
        seconds={phase: min(run.seconds[phase] for run in runs) for phase in runs[0].seconds},
        cpu_seconds=min(run.cpu_seconds for run in runs),
        peak_bytes=max(run.peak_bytes for run in runs),
    )


class Gauge:
    """Memory of this process: resident (Linux), counted from when the gauge was made, or on a GPU what torch holds."""

    def __init__(self, device: torch.device = CPU) -> None:
        self.device = device
        self.baseline = status_bytes("VmRSS")

    def begin(self) -> None:
        """Forget the peak so far."""
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
    """Seconds of a call, with what it started on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def fastest(device: torch.device, function: Callable[[], object], seconds: float = 1.0) -> float:
    """The least seconds of a call among as many as fit in `seconds`, after one to warm up."""
    function()
    least, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        least = min(least, timed(device, function))
    return least


def matmul_peak(
    threads: int, size: int = 1024, *, device: torch.device = CPU, dtype: torch.dtype = torch.float32
) -> float:
    """The best operations per second of a square matrix product; on a CPU with so many threads."""
    torch.set_num_threads(threads)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / fastest(device, lambda: torch.mm(left, right))


def copy_bandwidth(device: torch.device, gigabytes: float) -> float:
    """Bytes per second that a large copy reads and writes."""
    source = torch.zeros(int(gigabytes * 1e9), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / fastest(device, lambda: target.copy_(source))


def status_bytes(name: str, process: int | str = "self") -> int:
    """A line of /proc/PID/status, such as the peak resident memory VmHWM."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    assert found, name
    return int(found[1]) * 1024
