"""Child process: the same work by trlx itself, in the environment of the Python that TRLX_PYTHON names.

The trainer is unchanged and has the settings of the published recipe.  The reward function scores response and chosen
response of every chunk, as the recipe's does.  Validation and checkpoints are not timed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from trlx.trainer import register_trainer

from rlhf.runtime.metrics_log import MetricsLog
from rlhf.storage.files import read_jsonl
from rlhf.training.trlx_trainer.checkpoints import Checkpoints
from rlhf.training.trlx_trainer.conversion import convert_for_trlx
from rlhf.training.trlx_trainer.launch import prepare_processes
from rlhf.training.trlx_trainer.ppo_trainer import PpoRun, PpoTrainer, train_by_ppo
from rlhf.training.trlx_trainer.reward_model import TrlxRewardModel
from rlhf.training.trlx_trainer.trlx_config import ppo_settings
from tests.benchmarks.measure import Gauge, Measured, print_measured
from tests.benchmarks.work import read_work

PHASES = ("generate", "score", "evaluate", "train")


@register_trainer
class TimedTrainer(PpoTrainer):
    """Measures the CPU time of rollouts and training only."""

    cpu_seconds = 0.0
    trained_since = 0.0

    def make_experience(self, num_rollouts: int = 1024, iter_count: int = 0) -> None:
        """One round of rollouts."""
        gauge.begin()
        started = time.process_time()
        super().make_experience(num_rollouts, iter_count)
        TimedTrainer.cpu_seconds += time.process_time() - started

    def validate(self) -> dict[str, float]:
        """Validate before and after training; training is timed between the two."""
        if self.iter_count > 0:
            TimedTrainer.cpu_seconds += time.process_time() - self.trained_since
        metrics = super().validate()
        self.trained_since = time.process_time()
        return metrics


def main(folder: Path) -> None:
    """Run one step and report its time and memory."""
    prepare_processes()
    work = read_work(folder)
    output = folder / "trlx"
    output.mkdir(exist_ok=True)
    for name in ("sft", "reward"):
        convert_for_trlx(folder / name / "model", output / name)
    ppo = work.stage().ppo.model_copy(update={"rollout_batch_size": work.chunk})
    settings = ppo_settings(
        ppo,
        model=output / "sft",
        checkpoints=output / "checkpoints",
        prompt_tokens=work.prompt_tokens,
        processes=1,
        seed=1,
    )
    settings["train"]["trainer"] = "TimedTrainer"
    scorer = TrlxRewardModel.load(output / "reward", "float32", "cpu")
    chosen = {str(row["prompt"]): str(row["chosen"]) for row in read_jsonl(folder / "data" / "ppo_prompts.jsonl")}

    def reward(prompts: list[str], responses: list[str], _baselines: list[float]) -> list[float]:
        originals = [chosen[prompt] for prompt in prompts]
        scores = (scorer.score(prompts, texts, work.chunk).tolist() for texts in (responses, originals))
        pairs = zip(*scores, strict=True)
        return [score - original for score, original in pairs]

    prompts: list[dict[str, Any]] = [{"prompt": prompt, "baseline": 0.0} for prompt in chosen]
    checkpoints = Checkpoints(output, keep=1)
    checkpoints.root.mkdir(exist_ok=True)
    run = PpoRun(
        output=output,
        checkpoints=checkpoints,
        resumed=None,
        config=ppo,
        seed=1,
        metrics=MetricsLog(output / "metrics.jsonl", None),
        validation_log=MetricsLog(output / "validation.jsonl", None),
    )
    train_by_ppo(
        settings,
        run,
        prompts=prompts,
        validation_prompts=[dict(prompts[0])],
        reward=reward,
        stop_sequences=work.stage().stop_sequences,
        resume=None,
    )
    (row,) = read_jsonl(output / "metrics.jsonl")
    print_measured(
        Measured(
            seconds={phase: float(str(row[f"{phase}_seconds"])) for phase in PHASES},
            cpu_seconds=TimedTrainer.cpu_seconds,
            peak_bytes=gauge.peak_bytes(),
        )
    )


if __name__ == "__main__":
    gauge = Gauge()
    main(Path(sys.argv[1]))
