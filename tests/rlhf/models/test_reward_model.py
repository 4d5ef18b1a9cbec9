"""Scores compared with the model's own forward pass on single rows, which have no padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlhf.errors import UserError
from rlhf.models.loading import new_reward_model, save_model
from rlhf.models.reward_model import RewardModel
from tests.support.tiny_models import CONTEXT, Architecture, tiny_model

PROMPTS = ["\n\nHuman: What can I cook?\n\nAssistant:", "\n\nHuman: Hi\n\nAssistant:", "\n\nHuman: Why?\n\nAssistant:"]
RESPONSES = [" Rice.", " You can make fried rice with eggs, or soup.", ""]


def tiny_reward_model(folder: Path, architecture: Architecture = "gptj") -> Path:
    """A reward model with a random head, next to its base model."""
    base = tiny_model(folder / "base", architecture)
    model, tokenizer = new_reward_model(base, "float32", seed=1)
    save_model(model, tokenizer, folder / "reward")
    return folder / "reward"


@pytest.mark.parametrize("architecture", ["gptj", "gpt_neox", "llama", "gpt2", "qwen2"])
def test_score_is_read_at_the_eos_whatever_the_batch(tmp_path: Path, architecture: Architecture) -> None:
    reward = RewardModel.load(tiny_reward_model(tmp_path, architecture), "float32", "cpu")
    reward.model.config.pad_token_id = None  # transformers then reads the score at the last token
    rows = [reward.encode(prompt, response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    assert all(ids[-1] == reward.tokenizer.eos_token_id for ids in rows)
    with torch.no_grad():
        alone = torch.stack([reward.model(torch.tensor([ids])).logits[0, 0] for ids in rows])
    for batch_size in (1, 2, 3):
        torch.testing.assert_close(reward.score(PROMPTS, RESPONSES, batch_size), alone, atol=1e-5, rtol=1e-5)
    assert len(set(alone.tolist())) == len(rows)


def test_long_dialogues_lose_their_beginning(tmp_path: Path) -> None:
    reward = RewardModel.load(tiny_reward_model(tmp_path), "float32", "cpu")
    long = "\n\nHuman: " + "rice and eggs " * 200 + "\n\nAssistant:"
    ids = reward.encode(long, " Rice.")
    assert len(ids) == CONTEXT
    assert ids[-1] == reward.tokenizer.eos_token_id
    assert reward.score([long], [" Rice."], 1).isfinite().all()


def test_batches_are_reported_and_no_prompts_give_no_scores(tmp_path: Path) -> None:
    reward = RewardModel.load(tiny_reward_model(tmp_path), "float32", "cpu")
    scored: list[int] = []
    reward.score(PROMPTS, RESPONSES, 2, scored.append)
    assert scored == [2, 3]
    assert reward.score([], [], 2).shape == (0,)


def test_a_score_that_is_not_finite_is_a_user_error(tmp_path: Path) -> None:
    reward = RewardModel.load(tiny_reward_model(tmp_path), "float32", "cpu")
    reward.model.score.weight.data[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"reward: score of ' Rice\.' is nan, not finite"):
        reward.score(PROMPTS, RESPONSES, 2)
