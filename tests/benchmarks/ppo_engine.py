"""Child process: one step of our PPO engine on the work in a folder."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from rlhf.models.decoder import Decoder
from rlhf.runtime.distributed import start_processes
from rlhf.stages.train_ppo import make_run
from rlhf.training.ppo.context import Run
from rlhf.training.ppo.step import run_step
from tests.benchmarks.measure import Gauge, Measured, tell, timed
from tests.benchmarks.work import read_work, stage_inputs

PHASES = ("decode", "estimate", "score", "train")


def main(folder: Path) -> None:
    """Take the step and tell what it took."""
    processes, work = start_processes(), read_work(folder)
    gauge = Gauge(processes.device)
    run = make_run(work.stage(), stage_inputs(folder), processes)
    if work.warm_up:
        run_step(run, 2)
    gauge.begin()
    cpu_started = time.process_time()
    row = run_step(run, 1)
    cpu_seconds, peak_bytes = time.process_time() - cpu_started, gauge.peak_bytes()
    tell(
        Measured(
            seconds={phase: row[f"{phase}_seconds"] for phase in PHASES},
            cpu_seconds=cpu_seconds,
            peak_bytes=peak_bytes,
            figures={"read_prompts_seconds": read_prompts_seconds(run)},
        )
    )


@torch.no_grad()
def read_prompts_seconds(run: Run) -> float:
    """How much of decoding goes before the first token is drawn, in batches as in the step."""
    prompt_ids = [prompt.token_ids for prompt in run.prompts]
    rows, longest_answer = run.decode_rows(prompt_ids), run.config.sampling.max_new_tokens

    def read_prompts() -> None:
        for start in range(0, len(prompt_ids), rows):
            Decoder(run.policy.model, prompt_ids[start : start + rows], longest_answer, None).read_prompts()

    return timed(run.device, read_prompts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
