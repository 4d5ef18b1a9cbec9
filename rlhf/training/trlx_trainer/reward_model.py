"""The reward model of rlhf.models.reward_model, with the transformers that trlx needs."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from transformers import AutoModelForSequenceClassification

from rlhf.errors import UserError
from rlhf.models.loading import Dtype
from rlhf.models.reward_model import RewardModel
from rlhf.models.tokenization import load_tokenizer

TOLERANCE: dict[Dtype, float] = {"float32": 1e-3, "bfloat16": 0.1}
"""By which the score of a chosen answer may differ from the one that train_reward measured, and that relative too."""


class Scorer(RewardModel):
    """A reward model of the old layout."""

    @classmethod
    def load(cls, folder: Path, dtype: Dtype, device: torch.device | str) -> Self:
        """The reward model in `folder`."""
        tokenizer = load_tokenizer(folder)
        # Text that spells a special token is ordinary text; this transformers knows no split_special_tokens.
        tokenizer.backend_tokenizer.encode_special_tokens = True
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, torch_dtype=getattr(torch, dtype), local_files_only=True
        )
        return cls(folder, model.to(device).eval().requires_grad_(False), tokenizer)

    def _dialogue(self, prompt: str, answer: str) -> list[int]:
        answer_ids = self.tokenizer(answer, add_special_tokens=False).input_ids
        return [*self.tokenizer(prompt).input_ids, *answer_ids, self.tokenizer.eos_token_id]


def require_same_scores(
    reward_model: RewardModel, prompts: list[str], chosen: list[str], expected: list[float], dtype: Dtype
) -> None:
    """Raise UserError where chosen answers do not score as they did when the reward model was made."""
    tolerance = TOLERANCE[dtype]
    for found, score in zip(reward_model.score(prompts, chosen, len(prompts)).tolist(), expected, strict=True):
        if abs(found - score) > tolerance * (1 + abs(score)):
            raise UserError(
                f"trainer (trlx): the reward model scores a chosen answer {found:.4f} there and {score:.4f} with "
                "this package's libraries; set trainer to own for this model"
            )
