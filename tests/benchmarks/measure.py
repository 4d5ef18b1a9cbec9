"""Seconds, memory and the machine's own limit, measured in child processes that run one after another."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

ROOT = Path(__file__).parents[2]
MEASURED = "@measured "
"""Begins the line on which a child tells what it measured."""
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
    """Most resident memory while it worked, less what the process had after its imports."""

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
    """Resident memory of this process (Linux), counted from when the gauge was made."""

    def __init__(self) -> None:
        self.baseline = status_bytes("VmRSS")

    def begin(self) -> None:
        """Forget the peak so far."""
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)

    def peak_bytes(self) -> int:
        """The peak since `begin`."""
        return status_bytes("VmHWM") - self.baseline


def matmul_peak(threads: int, size: int = 1024, seconds: float = 1.0) -> float:
    """The best float32 operations per second of a square matrix product, with so many threads."""
    torch.set_num_threads(threads)
    left, right = torch.randn(size, size), torch.randn(size, size)
    fastest, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        torch.mm(left, right)
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * size**3 / fastest


def status_bytes(name: str, process: int | str = "self") -> int:
    """A line of /proc/PID/status, such as the peak resident memory VmHWM."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    assert found, name
    return int(found[1]) * 1024
