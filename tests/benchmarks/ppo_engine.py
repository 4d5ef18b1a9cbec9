"""Child process: one step of our PPO engine on the work in a folder."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from rlhf.models.decoder import Decoder
from rlhf.runtime.distributed import init_distributed
from rlhf.stages.train_ppo import make_context
from rlhf.training.ppo.context import PpoContext
from rlhf.training.ppo.step import run_step
from tests.benchmarks.measure import Gauge, Measured, print_measured, timed
from tests.benchmarks.work import read_work, stage_inputs

PHASES = ("generate", "score", "evaluate", "train")


def main(folder: Path) -> None:
    """Run the step and report its time and memory."""
    processes, work = init_distributed(), read_work(folder)
    gauge = Gauge(processes.device)
    context = make_context(work.stage(), stage_inputs(folder), processes)
    if work.warm_up:
        run_step(context, 2)
    gauge.begin()
    cpu_started = time.process_time()
    row = run_step(context, 1)
    cpu_seconds, peak_bytes = time.process_time() - cpu_started, gauge.peak_bytes()
    print_measured(
        Measured(
            seconds={phase: row[f"{phase}_seconds"] for phase in PHASES},
            cpu_seconds=cpu_seconds,
            peak_bytes=peak_bytes,
            metrics={"prefill_seconds": prefill_seconds(context)},
        )
    )


@torch.no_grad()
def prefill_seconds(context: PpoContext) -> float:
    """Seconds of generation before the first token is sampled, in the same batches as in the step."""
    prompt_ids = [prompt.token_ids for prompt in context.prompts]
    batch_size, max_length = context.decode_batch_size(prompt_ids), context.config.sampling.max_new_tokens

    def prefill() -> None:
        for start in range(0, len(prompt_ids), batch_size):
            Decoder(context.policy.model, prompt_ids[start : start + batch_size], max_length, None).prefill()

    return timed(context.device, prefill)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
