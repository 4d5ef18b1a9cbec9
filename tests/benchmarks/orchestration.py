"""Orchestration: what the workflow itself costs, on a running server with a worker of each pool."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

from rich.table import Table

from tests.benchmarks.measure import status_bytes
from tests.benchmarks.part import Options, Result
from tests.support.site import Site, is_final, overrides, site

MEGABYTE = 1e6


def run(options: Options) -> Result:
    """The shrunk quickstart once on the pools, then again with every step cached."""
    with TemporaryDirectory() as folder, site(Path(folder)) as here:
        run = here.begin()
        memory = peak_bytes(here, run)
        assert here.ended(run).is_completed()
        dispatch = dispatch_seconds(here)
        cached = min(cached_run_seconds(here) for _ in range(options.repeats))
    figures = {"dispatch_seconds": dispatch, "cached_run_seconds": cached, "orchestrator_peak_bytes": float(memory)}
    table = Table(title="Orchestration", caption="on a running server")
    for column in ("cost", "measured"):
        table.add_column(column, justify="right" if column == "measured" else "left")
    table.add_row("GPU step, from submission to the first line of its flow, s", f"{dispatch:.1f}")
    table.add_row("run with every step cached, command to exit, s", f"{cached:.1f}")
    table.add_row("peak memory of the process that runs the pipeline, MB", f"{memory / MEGABYTE:.0f}")
    return Result(figures=figures, tables=[table])


def peak_bytes(here: Site, run: UUID) -> int:
    """Peak resident memory of the process in which the pipeline runs, to its end."""
    peak = 0
    while not is_final(here.run(run)):
        for process in here.flow_processes(run):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                peak = max(peak, status_bytes("VmHWM", process))
        time.sleep(1)
    return peak


def dispatch_seconds(here: Site) -> float:
    """How long the first GPU step, for which the pool was free, waited for its process."""
    with here.client as client:
        stages = [found for found in client.read_flow_runs() if found.parent_task_run_id is not None]
    first = min(stages, key=lambda found: str(found.created))
    assert first.created is not None
    assert first.start_time is not None
    return (first.start_time - first.created).total_seconds()


def cached_run_seconds(here: Site) -> float:
    """A run by the command line whose steps are all finished."""
    settings = [f"--set={override}" for override in overrides({"compute.gpu_pool": "p4d"})]
    command = [str(Path(sys.executable).with_name("rlhf")), "run", "quickstart", "--workspace", str(here.workspace)]
    environment = os.environ | {"PREFECT_API_URL": here.services.api, "PREFECT_HOME": str(here.folder / "home-cli")}
    started = time.perf_counter()
    done = subprocess.run([*command, *settings], env=environment, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    assert done.stdout.count("Cached") >= 10, done.stdout
    return seconds
