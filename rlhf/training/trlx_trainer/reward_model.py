"""The reward model of rlhf.models.reward_model, loaded with the transformers version that trlx needs."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from transformers import AutoModelForSequenceClassification

from rlhf.errors import UserError
from rlhf.models.loading import Dtype
from rlhf.models.reward_model import RewardModel
from rlhf.models.tokenizer_files import read_tokenizer

TOLERANCE: dict[Dtype, float] = {"float32": 1e-3, "bfloat16": 0.1}
"""Absolute and relative tolerance between the score of a chosen response and the one that train_reward measured."""


class TrlxRewardModel(RewardModel):
    """A reward model in the layout that trlx reads."""

    @classmethod
    def load(cls, folder: Path, dtype: Dtype, device: torch.device | str) -> Self:
        """The reward model in `folder`."""
        tokenizer = read_tokenizer(folder)
        # Text that looks like a special token is ordinary text; this transformers has no split_special_tokens.
        tokenizer.backend_tokenizer.encode_special_tokens = True
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, torch_dtype=getattr(torch, dtype), local_files_only=True, trust_remote_code=False
        )
        return cls(folder, model.to(device).eval().requires_grad_(False), tokenizer)

    def _encode_dialogue(self, prompt: str, response: str) -> list[int]:
        response_ids = self.tokenizer(response, add_special_tokens=False).input_ids
        return [*self.tokenizer(prompt).input_ids, *response_ids, self.tokenizer.eos_token_id]


def check_same_scores(
    reward_model: RewardModel, prompts: list[str], chosen: list[str], expected: list[float], dtype: Dtype
) -> None:
    """Raise UserError if chosen responses score differently than in train_reward."""
    tolerance = TOLERANCE[dtype]
    for found, score in zip(reward_model.score(prompts, chosen, len(prompts)).tolist(), expected, strict=True):
        if abs(found - score) > tolerance * (1 + abs(score)):
            raise UserError(
                f"trainer (trlx): the reward model scores a chosen response {found:.4f} with trlx's libraries and "
                f"{score:.4f} with this package's libraries; set trainer to own for this model"
            )
