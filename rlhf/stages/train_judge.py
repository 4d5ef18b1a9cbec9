"""Stage: train the independent judge, a reward model on pairs that neither the policy nor its reward model has seen.

It compares the final responses.  PPO and the choice of the checkpoint never see it.
"""

from __future__ import annotations

from pathlib import Path

from rlhf.runtime.seeds import derive_seed
from rlhf.runtime.stage import main
from rlhf.stage_config import JudgeStage
from rlhf.stages.train_reward import train_and_evaluate

PAIRS = "judge_preferences.jsonl"


def train_judge(config: JudgeStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Train on the judge's pairs; write model/, metrics.jsonl and evaluation.json, which measures validation pairs."""
    own_seed = config.model_copy(update={"seed": derive_seed(config.seed, "judge") % 2**32})
    _, metrics = train_and_evaluate(own_seed, inputs, output, PAIRS)
    return metrics


if __name__ == "__main__":
    main(JudgeStage, train_judge)
