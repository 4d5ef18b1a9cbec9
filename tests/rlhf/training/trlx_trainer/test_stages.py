"""SFT and PPO by trlx itself, as processes of its own environment, on tiny models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlhf.config import ModelConfig, PpoConfig, ResponsesConfig, SamplingConfig, SftConfig
from rlhf.models.loading import load_causal_lm, new_reward_model, save_model
from rlhf.models.reward_model import RewardModel
from rlhf.models.sampling import generate
from rlhf.stage_config import PpoStage, SftStage
from rlhf.stages.train_sft import train_sft
from rlhf.storage.files import read_jsonl, write_jsonl
from tests.support.stages import Stages
from tests.support.tiny_inputs import tiny_inputs, write_request
from tests.support.tiny_models import Architecture, tiny_tokenizer
from tests.support.trlx_env import TRLX_PYTHON, needs_trlx

pytestmark = [pytest.mark.slow, needs_trlx]

SFT = SftStage(
    seed=1,
    trainer="trlx",
    model=ModelConfig(),
    # all of the 11 held-out rows in one batch, so that a mean over batches is one over rows
    sft=SftConfig(epochs=2, max_steps=6, batch_size=11, device_batch_size=11, learning_rate=1e-2, checkpoint_every=3),
)
PPO = PpoStage(
    seed=1,
    trainer="trlx",
    model=ModelConfig(),
    ppo=PpoConfig(
        steps=4,
        rollouts_per_step=8,
        minibatch_size=4,
        rollout_batch_size=4,
        epochs=2,
        learning_rate=1e-3,
        sampling=SamplingConfig(max_new_tokens=8),
        validate_every=1,
        checkpoint_every=1,
    ),
    stop_sequences=ResponsesConfig().stop_sequences,
)


@pytest.fixture(scope="module")
def stages() -> Iterator[Stages]:
    """Runs stages in trlx's environment."""
    with Stages(TRLX_PYTHON) as started:
        yield started


def ppo_inputs(folder: Path, architecture: Architecture = "gptj") -> dict[str, Path]:
    """A policy that is the base model, and a reward model with a random head."""
    inputs = tiny_inputs(folder, architecture)
    reward = folder / "reward"
    model, tokenizer = new_reward_model(inputs["model"] / "model", "float32", seed=3)
    reward.mkdir()
    save_model(model, tokenizer, reward / "model")
    rows = read_jsonl(inputs["data"] / "ppo_prompts.jsonl") + read_jsonl(inputs["data"] / "validation_prompts.jsonl")
    prompts, chosen = ([str(row[name]) for row in rows] for name in ("prompt", "chosen"))
    scores = RewardModel.load(reward / "model", "float32", "cpu").score(prompts, chosen, 4).tolist()
    write_jsonl(
        reward / "chosen_scores.jsonl",
        [{"id": row["id"], "score": score} for row, score in zip(rows, scores, strict=True)],
    )
    return {"data": inputs["data"], "sft": inputs["model"], "reward": reward}


@pytest.mark.parametrize("architecture", ["gptj", "gpt2", "gpt_neox"])
def test_sft_starts_at_the_loss_of_our_own_stage_and_learns(
    tmp_path: Path, stages: Stages, architecture: Architecture
) -> None:
    inputs = tiny_inputs(tmp_path, architecture)
    request = write_request(tmp_path / "request.json", "train_sft", SFT, inputs)
    assert stages.run("rlhf.stages.train_sft_trlx", request, tmp_path / "trlx")
    ours = train_sft(SFT.model_copy(update={"trainer": "own"}), inputs, tmp_path / "ours")
    found = json.loads((tmp_path / "trlx" / "manifest.json").read_bytes())["metrics"]
    assert found["validation_loss_first"] == pytest.approx(ours["validation_loss_first"], abs=1e-4)
    assert found["validation_loss_last"] < found["validation_loss_first"] - 0.1
    assert found["steps"] == 6
    rows = read_jsonl(tmp_path / "trlx" / "metrics.jsonl")
    assert [row["step"] for row in rows if "validation_loss" in row] == [0, 3, 6]
    load_causal_lm(tmp_path / "trlx" / "model", "float32")


@pytest.mark.parametrize("architecture", ["gptj", "gpt2", "gpt_neox"])
def test_ppo_starts_at_the_reference_and_trains_only_the_top_blocks(
    tmp_path: Path, stages: Stages, architecture: Architecture
) -> None:
    inputs, output = ppo_inputs(tmp_path, architecture), tmp_path / "trlx"
    request = write_request(tmp_path / "request.json", "train_ppo", PPO, inputs)
    assert stages.run("rlhf.stages.train_ppo_trlx", request, output)
    rows = read_jsonl(output / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-9)
    assert all(float(str(row["kl"])) > 1e-6 for row in rows[1:])
    measured = read_jsonl(output / "validation.jsonl")
    assert [row["step"] for row in measured] == [0, 1, 2, 3, 4]
    scores = [float(str(row["score"])) for row in measured]
    summary = json.loads((output / "summary.json").read_bytes())
    assert summary == {
        "first": scores[0],
        "best": max(scores),
        "best_step": scores.index(max(scores)),
        "last": scores[-1],
        "stopped_early": None,
        "rejected": [],
    }
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (inputs["sft"], output))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = [name for name in before if ".0." in name or "wte" in name or "embed_in" in name]
    assert frozen
    assert not moved & set(frozen)
    assert bool(moved) == (summary["best_step"] > 0)
    responses = generate(
        load_causal_lm(output / "model", "float32"),
        tiny_tokenizer(),
        [[5, 6, 7]] * 2,
        PPO.ppo.sampling,
        [1, 2],
        batch_size=2,
    )
    assert len(responses) == 2


def test_a_killed_run_resumes_from_its_checkpoint(tmp_path: Path, stages: Stages) -> None:
    inputs, output = ppo_inputs(tmp_path), tmp_path / "trlx"
    request = write_request(tmp_path / "request.json", "train_ppo", PPO, inputs)
    state = output / "checkpoints" / "step-00000008" / "state.json"  # after the second round
    complete = state.with_name("checkpoint.json")
    assert not stages.run("rlhf.stages.train_ppo_trlx", request, output, kill_when=complete.is_file)
    before = read_jsonl(output / "metrics.jsonl")[:2]
    saved = json.loads(state.read_bytes())
    assert saved["running_statistics"]["count"] == pytest.approx(16)
    assert stages.run("rlhf.stages.train_ppo_trlx", request, output)
    assert "resuming after step" in (output / "log.txt").read_text()
    rows = read_jsonl(output / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[:2] == before
    assert [row["step"] for row in read_jsonl(output / "validation.jsonl")] == [0, 1, 2, 3, 4]
    assert rows[2]["kl_coefficient"] == pytest.approx(saved["kl_coefficient"])
    assert float(str(rows[2]["kl"])) > 1e-6  # the policy is the trained one, the reference the first one
    assert not (output / "checkpoints").exists()
