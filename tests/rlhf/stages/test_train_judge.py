"""Independent judge: trained on its own pairs and nothing else, with another seed than the reward model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import load_file

from rlhf.config import ModelConfig, RewardConfig
from rlhf.errors import UserError
from rlhf.stage_config import JudgeStage, RewardStage
from rlhf.stages.train_judge import train_judge
from rlhf.stages.train_reward import train_reward
from rlhf.storage.artifacts import CHECKPOINTS, read_manifest
from rlhf.storage.files import read_jsonl, write_jsonl
from tests.support.stages import Stages, assert_same_files
from tests.support.tiny_inputs import tiny_inputs, write_request

MODULE = "rlhf.stages.train_judge"
SETTINGS = RewardConfig(
    epochs=4, batch_size=8, device_batch_size=4, learning_rate=1e-2, warmup_steps=2, checkpoint_every=3
)
CONFIG = JudgeStage(seed=1, model=ModelConfig(), reward=SETTINGS)
NEEDED = ("judge_preferences.jsonl", "validation_preferences.jsonl")


class TrainedJudge(NamedTuple):
    """A run of the stage."""

    inputs: dict[str, Path]
    output: Path
    metrics: dict[str, float]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedJudge:
    """A judge whose inputs have everything that is for the policy replaced by rubbish."""
    folder = tmp_path_factory.mktemp("trained")
    inputs = tiny_inputs(folder)
    for path in inputs["data"].iterdir():
        if path.name not in NEEDED:
            path.write_text("not JSON")
    return TrainedJudge(inputs, folder / "out", train_judge(CONFIG, inputs, folder / "out"))


def test_the_judge_learns_from_its_own_pairs(trained: TrainedJudge) -> None:
    assert (trained.inputs["data"] / "preferences.jsonl").read_text() == "not JSON"
    assert trained.metrics["pairs"] == 11
    assert trained.metrics["accuracy"] > 0.9
    evaluation = json.loads((trained.output / "evaluation.json").read_text())
    assert {name: evaluation[name] for name in trained.metrics} == trained.metrics
    assert {path.name for path in trained.output.iterdir()} >= {"model", "metrics.jsonl", "evaluation.json"}
    assert not (trained.output / "chosen_scores.jsonl").exists()


def test_judge_pairs_with_the_opposite_preference_teach_the_opposite(trained: TrainedJudge, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(trained.inputs["data"], data)
    rows = read_jsonl(data / "judge_preferences.jsonl")
    write_jsonl(
        data / "judge_preferences.jsonl",
        [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows],
    )
    assert train_judge(CONFIG, trained.inputs | {"data": data}, tmp_path / "out")["accuracy"] < 0.1


def test_without_pairs_of_its_own_the_judge_is_not_trained(tmp_path: Path) -> None:
    inputs = tiny_inputs(tmp_path)
    (inputs["data"] / "judge_preferences.jsonl").write_text("")
    with pytest.raises(UserError, match=r"judge_preferences\.jsonl: no rows"):
        train_judge(CONFIG, inputs, tmp_path / "out")


def test_the_judge_has_another_seed_than_the_reward_model(trained: TrainedJudge, tmp_path: Path) -> None:
    """Even on the same pairs: the new weights of the score and the order of the pairs depend on it."""
    inputs = tiny_inputs(tmp_path)
    shutil.copy(inputs["data"] / "judge_preferences.jsonl", inputs["data"] / "preferences.jsonl")
    train_reward(RewardStage(seed=1, model=ModelConfig(), reward=SETTINGS), inputs, tmp_path / "reward")
    reward, judge = (
        load_file(folder / "model" / "model.safetensors") for folder in (tmp_path / "reward", trained.output)
    )
    assert reward.keys() == judge.keys()
    assert float((reward["score.weight"] - judge["score.weight"]).abs().max()) > 0.01

    train_judge(CONFIG, trained.inputs, tmp_path / "again")
    assert_same_files(tmp_path / "again" / "model", trained.output / "model")


@pytest.mark.slow
def test_a_killed_training_gives_the_same_bytes(tmp_path: Path, stages: Stages) -> None:
    """Killed once it has a checkpoint; test_train_reward.py kills the same code at ten moments."""
    request = write_request(tmp_path / "request.json", "train_judge", CONFIG, tiny_inputs(tmp_path))
    stages.load(MODULE)
    assert stages.run(MODULE, request, tmp_path / "undisturbed")
    killed = tmp_path / "killed"
    assert not stages.run(MODULE, request, killed, kill_when=lambda: any(killed.glob(f"{CHECKPOINTS}/*")))
    assert not (killed / "model").exists()
    assert stages.run(MODULE, request, killed)
    manifests = [read_manifest(folder) for folder in (killed, tmp_path / "undisturbed")]
    assert manifests[0] is not None
    assert manifests[1] is not None
    assert manifests[0].metrics == manifests[1].metrics
    assert_same_files(killed / "model", tmp_path / "undisturbed" / "model")
    assert (killed / "evaluation.json").read_bytes() == (tmp_path / "undisturbed" / "evaluation.json").read_bytes()
