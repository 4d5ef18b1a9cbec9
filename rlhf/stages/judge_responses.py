"""Stage: score responses with the independent judge.

Inputs: `judge`, and any number of artifacts with responses: to the test prompts (`sft_responses`, `rlhf_responses`,
...), of PPO's validations (`rlhf`, ...) and for best-of-n (`best_of_n`).  Writes one file of scores per artifact, named
after the input, with a row {score} per row of responses.
"""

from __future__ import annotations

from pathlib import Path

from rlhf.models.reward_model import RewardModel
from rlhf.runtime.distributed import init_distributed
from rlhf.runtime.stage import is_main_process, main
from rlhf.stage_config import JudgingStage
from rlhf.stages.train_reward import score_distributed
from rlhf.storage.files import read_jsonl, write_jsonl

RESPONSE_FILES = ("responses.jsonl", "validation_responses.jsonl", "samples.jsonl")


def judge_responses(config: JudgingStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Score the responses of every input; the metrics are the mean scores of the test responses."""
    judge = RewardModel.load(inputs["judge"] / "model", config.model.dtype, init_distributed().device)
    means: dict[str, float] = {}
    for name, folder in inputs.items():
        path = next((folder / file for file in RESPONSE_FILES if (folder / file).is_file()), None)
        if path is None:
            continue
        rows = [{"prompt": str(row["prompt"]), "response": str(row["response"])} for row in read_jsonl(path)]
        scores = score_distributed(judge, rows, "response", config.batch_size, f"judging {name}")
        if is_main_process():
            write_jsonl(output / f"{name}.jsonl", [{"score": score} for score in scores])
        if path.name == "responses.jsonl":
            means[f"mean_score_{name.removesuffix('_responses')}"] = sum(scores) / len(scores)
    return means


if __name__ == "__main__":
    main(JudgingStage, judge_responses)
