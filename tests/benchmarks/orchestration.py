"""Cost of the orchestration itself, on a running server with one worker per pool."""

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
    """Run the shrunk quickstart on the pools, then again with every stage cached."""
    with TemporaryDirectory() as folder, site(Path(folder)) as running_site:
        run = running_site.start_run()
        memory = peak_bytes(running_site, run)
        assert running_site.wait_until_final(run).is_completed()
        dispatch = dispatch_seconds(running_site)
        cached = min(cached_run_seconds(running_site) for _ in range(options.repeats))
    metrics = {"dispatch_seconds": dispatch, "cached_run_seconds": cached, "orchestrator_peak_bytes": float(memory)}
    table = Table(title="Orchestration", caption="on a running server")
    for column in ("cost", "measured"):
        table.add_column(column, justify="right" if column == "measured" else "left")
    table.add_row("GPU stage, from submission to the first line of its flow, s", f"{dispatch:.1f}")
    table.add_row("run with every stage cached, command to exit, s", f"{cached:.1f}")
    table.add_row("peak memory of the process that runs the pipeline, MB", f"{memory / MEGABYTE:.0f}")
    return Result(metrics=metrics, tables=[table])


def peak_bytes(site: Site, run: UUID) -> int:
    """Wait for a run; returns the peak resident memory of the process in which the pipeline runs."""
    peak = 0
    while not is_final(site.run(run)):
        for process in site.flow_processes(run):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                peak = max(peak, status_bytes("VmHWM", process))
        time.sleep(1)
    return peak


def dispatch_seconds(site: Site) -> float:
    """Time from submission to start of the first GPU stage, for which the pool was idle."""
    with site.client as client:
        stage_runs = [run for run in client.read_flow_runs() if run.parent_task_run_id is not None]
    first = min(stage_runs, key=lambda run: str(run.created))
    assert first.created is not None
    assert first.start_time is not None
    return (first.start_time - first.created).total_seconds()


def cached_run_seconds(site: Site) -> float:
    """Time of `rlhf run` if every stage is cached."""
    settings = [f"--set={override}" for override in overrides({"compute.gpu_pool": "p4d"})]
    command = [str(Path(sys.executable).with_name("rlhf")), "run", "quickstart", "--workspace", str(site.workspace)]
    environment = os.environ | {"PREFECT_API_URL": site.services.api, "PREFECT_HOME": str(site.folder / "home-cli")}
    started = time.perf_counter()
    done = subprocess.run([*command, *settings], env=environment, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    assert done.stdout.count("Cached") >= 10, done.stdout
    return seconds
