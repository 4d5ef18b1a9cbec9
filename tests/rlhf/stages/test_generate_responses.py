"""Responses to the test prompts: complete, reproducible, scored by their text."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.config import ModelConfig, ResponsesConfig, SamplingConfig
from rlhf.models.reward_model import RewardModel
from rlhf.models.tokenization import encode_response, load_tokenizer
from rlhf.stage_config import ResponsesStage
from rlhf.stages import generate_responses
from rlhf.storage.artifacts import read_manifest
from rlhf.storage.files import read_jsonl, write_jsonl
from tests.support.stages import Stages
from tests.support.tiny_inputs import write_request
from tests.support.tiny_models import copy_with_another_tokenizer
from tests.support.tiny_ppo import write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    inputs = write_inputs(tmp_path_factory.mktemp("inputs"))
    return {"data": inputs["data"], "policy": inputs["sft"], "reward": inputs["reward"]}


def settings(seed: int = 1, **changes: object) -> ResponsesStage:
    responses = {"sampling": SamplingConfig(max_new_tokens=10), "batch_size": 2} | changes
    return ResponsesStage(seed=seed, model=ModelConfig(), responses=ResponsesConfig.model_validate(responses))


def respond(config: ResponsesStage, inputs: dict[str, Path], output: Path) -> list[dict[str, object]]:
    output.mkdir(exist_ok=True)
    generate_responses.generate_responses(config, inputs, output)
    return read_jsonl(output / "responses.jsonl")


def test_every_prompt_has_one_row(inputs: dict[str, Path], tmp_path: Path) -> None:
    rows = respond(settings(), inputs, tmp_path)
    prompts = read_jsonl(inputs["data"] / "test_prompts.jsonl")
    assert [(row["id"], row["prompt"]) for row in rows] == [(row["id"], row["prompt"]) for row in prompts]
    assert set(rows[0]) == {"id", "prompt", "response", "seed", "reward", "stopped"}
    assert len({row["response"] for row in rows}) == len(rows)


def test_responses_depend_only_on_the_seed(inputs: dict[str, Path], tmp_path: Path) -> None:
    rows = respond(settings(), inputs, tmp_path / "a")
    other_batches = respond(settings(batch_size=3), inputs, tmp_path / "b")
    assert [row["response"] for row in other_batches] == [row["response"] for row in rows]
    other_seed = respond(settings(seed=2), inputs, tmp_path / "c")
    assert not {row["response"] for row in other_seed} & {row["response"] for row in rows}


def test_metrics_are_those_of_the_rows(inputs: dict[str, Path], tmp_path: Path) -> None:
    metrics = generate_responses.generate_responses(settings(), inputs, tmp_path)
    rewards = [float(str(row["reward"])) for row in read_jsonl(tmp_path / "responses.jsonl")]
    assert metrics["responses"] == len(rewards)
    assert metrics["mean_reward"] == pytest.approx(sum(rewards) / len(rewards))


def test_a_reward_model_with_another_tokenizer_scores_the_text(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Its token ids mean other things, so the text is scored, encoded with its own tokenizer."""
    folder = tmp_path / "reward" / "model"
    copy_with_another_tokenizer(inputs["reward"] / "model", folder)
    rows = respond(settings(), inputs | {"reward": tmp_path / "reward"}, tmp_path / "output")
    prompts, responses = [str(row["prompt"]) for row in rows], [str(row["response"]) for row in rows]
    expected = RewardModel.load(folder, "float32", "cpu").score(prompts, responses, batch_size=1)
    assert [row["reward"] for row in rows] == pytest.approx(expected.tolist(), abs=1e-5)
    policy_ids = encode_response(load_tokenizer(inputs["policy"] / "model"), responses[0])
    assert encode_response(load_tokenizer(folder), responses[0]) != policy_ids


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_as_one(inputs: dict[str, Path], tmp_path: Path, stages: Stages) -> None:
    """As the stage's command, also when one process has a batch more than the other."""
    many = tmp_path / "data"
    many.mkdir()
    questions = [f"\n\nHuman: What of {'rice ' * (number % 7)}and {number}?\n\nAssistant:" for number in range(17)]
    write_jsonl(many / "test_prompts.jsonl", [{"id": str(n), "prompt": text} for n, text in enumerate(questions)])
    request = write_request(
        tmp_path / "request.json", "generate_responses", settings(batch_size=4), inputs | {"data": many}
    )
    for name, processes in (("one", 1), ("two", 2)):
        assert stages.run("rlhf.stages.generate_responses", request, tmp_path / name, processes=processes)
    manifest = read_manifest(tmp_path / "two")
    assert manifest is not None
    assert manifest.processes == 2
    one, two = (tmp_path / name / "responses.jsonl" for name in ("one", "two"))
    assert [row["id"] for row in read_jsonl(one)] == [str(number) for number in range(17)]
    assert two.read_bytes() == one.read_bytes()
