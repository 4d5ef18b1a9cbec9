"""Scores of the independent judge: one file per input with responses, in the order of its rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.config import ModelConfig
from rlhf.models.reward_model import RewardModel
from rlhf.stage_config import JudgingStage
from rlhf.stages.judge_responses import judge_responses
from rlhf.storage.files import read_jsonl, write_jsonl
from tests.support.stages import Stages
from tests.support.tiny_inputs import write_request
from tests.support.tiny_models import tiny_model
from tests.support.tiny_ppo import write_reward_model

CONFIG = JudgingStage(seed=1, model=ModelConfig(), batch_size=2)
FILES = {
    "sft_responses": "responses.jsonl",
    "rlhf_responses": "responses.jsonl",
    "rlhf-43_responses": "responses.jsonl",
    "rlhf": "validation_responses.jsonl",
    "best_of_n": "samples.jsonl",
}
"""The input that contains each kind of responses, and the file."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A judge, and five inputs with different numbers of responses of different lengths."""
    folder = tmp_path_factory.mktemp("inputs")
    inputs = {name: folder / name for name in ("judge", *FILES)}
    tiny_model(folder / "base")
    write_reward_model(inputs["judge"] / "model", folder / "base")
    for number, (name, file) in enumerate(FILES.items()):
        inputs[name].mkdir()
        rows: list[dict[str, object]] = [
            {
                "id": f"p{row}",
                "prompt": f"\n\nHuman: {'rice ' * row}{name}?\n\nAssistant:",
                "response": f" eggs {number}" + " sky" * ((5 * row) % 7),
                "reward": 99.0,
            }
            for row in range(2 + number)
        ]
        write_jsonl(inputs[name] / file, rows)
    return inputs


def expected_scores(inputs: dict[str, Path], name: str) -> list[float]:
    """Score of each row by itself, without padding."""
    judge = RewardModel.load(inputs["judge"] / "model", "float32", "cpu")
    rows = read_jsonl(inputs[name] / FILES[name])
    return [float(judge.score([str(row["prompt"])], [str(row["response"])], 1)) for row in rows]


def scores(path: Path) -> list[float]:
    rows = read_jsonl(path)
    assert {name for row in rows for name in row} == {"score"}
    return [float(str(row["score"])) for row in rows]


def test_every_input_has_the_scores_of_its_rows_in_order(inputs: dict[str, Path], tmp_path: Path) -> None:
    metrics = judge_responses(CONFIG, inputs, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.jsonl" for name in FILES}
    for name in FILES:
        expected = expected_scores(inputs, name)
        assert len(set(expected)) == len(expected)
        assert scores(tmp_path / f"{name}.jsonl") == pytest.approx(expected, abs=1e-5)
    tested = {"sft": "sft_responses", "rlhf": "rlhf_responses", "rlhf-43": "rlhf-43_responses"}
    means = {
        f"mean_score_{model}": sum(scores(tmp_path / f"{name}.jsonl")) / len(scores(tmp_path / f"{name}.jsonl"))
        for model, name in tested.items()
    }
    assert metrics == pytest.approx(means)


def test_inputs_without_responses_are_skipped(inputs: dict[str, Path], tmp_path: Path) -> None:
    """PPO by trlx keeps no responses to the validation prompts."""
    trlx = tmp_path / "trlx"
    (trlx / "model").mkdir(parents=True)
    write_jsonl(trlx / "validation.jsonl", [{"step": 0, "score": 0.5}])
    chosen = {name: inputs[name] for name in ("judge", "sft_responses", "rlhf_responses")}
    (tmp_path / "out").mkdir()
    judge_responses(CONFIG, chosen | {"rlhf": trlx}, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"sft_responses.jsonl", "rlhf_responses.jsonl"}


@pytest.mark.slow
def test_two_processes_score_like_one(inputs: dict[str, Path], tmp_path: Path, stages: Stages) -> None:
    request = write_request(tmp_path / "request.json", "judge_responses", CONFIG, inputs)
    assert stages.run("rlhf.stages.judge_responses", request, tmp_path / "two", processes=2)
    for name in FILES:
        expected = expected_scores(inputs, name)
        assert scores(tmp_path / "two" / f"{name}.jsonl") == pytest.approx(expected, abs=1e-5)
