"""Child process: one step of our PPO engine on the work in a folder."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rlhf.ppo.step import run_step
from rlhf.processes import start_processes
from rlhf.train_ppo import make_run
from tests.benchmarks.measure import Gauge, Measured, tell
from tests.benchmarks.work import read_work, stage_inputs

PHASES = ("decode", "estimate", "score", "train")


def main(folder: Path) -> None:
    """Take the step and tell what it took."""
    gauge = Gauge()
    run = make_run(read_work(folder).stage(), stage_inputs(folder), start_processes())
    gauge.begin()
    cpu_started = time.process_time()
    row = run_step(run, 1)
    tell(
        Measured(
            seconds={phase: row[f"{phase}_seconds"] for phase in PHASES},
            cpu_seconds=time.process_time() - cpu_started,
            peak_bytes=gauge.peak_bytes(),
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
