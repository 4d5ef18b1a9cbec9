"""Samples for best-of-n: several different ones per validation prompt, the same for any number of processes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from rlhf.config import ModelConfig, SamplingConfig
from rlhf.models.reward_model import RewardModel
from rlhf.stage_config import BestOfNStage
from rlhf.stages.sample_best_of_n import sample_best_of_n
from rlhf.storage.artifacts import read_manifest
from rlhf.storage.files import read_jsonl, write_jsonl
from tests.support.stages import Stages
from tests.support.tiny_inputs import write_request
from tests.support.tiny_ppo import write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, a reward model, and two validation prompts."""
    inputs = write_inputs(tmp_path_factory.mktemp("inputs"))
    return {"data": inputs["data"], "policy": inputs["sft"], "reward": inputs["reward"]}


def settings(seed: int = 1, best_of: int = 5, batch_size: int = 3) -> BestOfNStage:
    return BestOfNStage(
        seed=seed,
        model=ModelConfig(),
        sampling=SamplingConfig(max_new_tokens=10),
        stop_sequences=(),
        batch_size=batch_size,
        best_of=best_of,
    )


def sample(config: BestOfNStage, inputs: dict[str, Path], output: Path) -> list[dict[str, object]]:
    output.mkdir()
    assert sample_best_of_n(config, inputs, output) == {"responses": 2 * config.best_of}
    return read_jsonl(output / "samples.jsonl")


def test_the_samples_of_a_prompt_are_next_to_each_other(inputs: dict[str, Path], tmp_path: Path) -> None:
    rows = sample(settings(), inputs, tmp_path / "out")
    prompts = read_jsonl(inputs["data"] / "validation_prompts.jsonl")
    assert [(row["id"], row["prompt"]) for row in rows] == [
        (row["id"], row["prompt"]) for row in prompts for _ in range(5)
    ]
    assert set(rows[0]) == {"id", "prompt", "response", "seed", "reward", "stopped"}
    reward = RewardModel.load(inputs["reward"] / "model", "float32", "cpu")
    expected = reward.score([str(row["prompt"]) for row in rows], [str(row["response"]) for row in rows], 1)
    assert [row["reward"] for row in rows] == pytest.approx(expected.tolist(), abs=1e-5)


def test_each_sample_has_a_seed_of_its_own(inputs: dict[str, Path], tmp_path: Path) -> None:
    """More samples begin with the same ones, and neither the batch size nor another prompt changes a sample."""
    rows = sample(settings(), inputs, tmp_path / "five")
    assert len({row["seed"] for row in rows}) == len({row["response"] for row in rows}) == 10
    fewer = sample(settings(best_of=2, batch_size=8), inputs, tmp_path / "two")
    assert [row["response"] for row in fewer] == [rows[number]["response"] for number in (0, 1, 5, 6)]
    other = sample(settings(seed=2), inputs, tmp_path / "other")
    assert not {row["response"] for row in other} & {row["response"] for row in rows}


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_as_one(inputs: dict[str, Path], tmp_path: Path, stages: Stages) -> None:
    """As the stage's command, also when a batch holds samples of two prompts."""
    many = tmp_path / "data"
    many.mkdir()
    questions = [f"\n\nHuman: What of {'rice ' * (number % 4)}and {number}?\n\nAssistant:" for number in range(5)]
    write_jsonl(many / "validation_prompts.jsonl", [{"id": str(n), "prompt": text} for n, text in enumerate(questions)])
    config = settings(best_of=3, batch_size=4)
    request = write_request(tmp_path / "request.json", "sample_best_of_n", config, inputs | {"data": many})
    for name, processes in (("one", 1), ("two", 2)):
        assert stages.run("rlhf.stages.sample_best_of_n", request, tmp_path / name, processes=processes)
    manifest = read_manifest(tmp_path / "two")
    assert manifest is not None
    assert manifest.processes == 2
    one, two = (tmp_path / name / "samples.jsonl" for name in ("one", "two"))
    assert Counter(row["id"] for row in read_jsonl(one)) == {str(number): 3 for number in range(5)}
    assert two.read_bytes() == one.read_bytes()
