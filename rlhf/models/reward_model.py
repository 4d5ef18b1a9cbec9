"""Scores answers: one number per dialogue, read at the end-of-text token of the answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.models.loading import Dtype, load_reward_model
from rlhf.models.tokenization import encode_response, encode_prompt, load_tokenizer


class RewardModel:
    """A reward model with its own tokenizer, so that it scores the text of a policy with any other tokenizer."""

    def __init__(self, folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Score by `model` on the device where it is; `folder`, where it lay, is named in errors."""
        self.folder, self.model, self.tokenizer = folder, model, tokenizer
        self.context_tokens: int | None = getattr(model.config, "max_position_embeddings", None)

    @classmethod
    def load(cls, folder: Path, dtype: Dtype, device: torch.device | str) -> Self:
        """The reward model in `folder`; raises UserError where that is none."""
        return cls(folder, load_reward_model(folder, dtype).to(device), load_tokenizer(folder))

    def score(
        self,
        prompts: list[str],
        answers: list[str],
        batch_size: int,
        on_batch: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Scores [N] of `answers` to `prompts` in float32 on the CPU, in the order given.

        An end-of-text token is put behind every answer, sampled or not, and the score read there.  A dialogue longer
        than the model's context loses its beginning.  `on_batch` is told the number scored so far.
        Raises UserError where a score is not finite.
        """
        rows = [self.encode(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        score_N = torch.empty(len(rows))
        by_length = sorted(range(len(rows)), key=lambda row: len(rows[row]))  # little padding
        for start in range(0, len(rows), batch_size):
            chosen = by_length[start : start + batch_size]
            score_N[chosen] = self._score_batch([rows[row] for row in chosen])
            if on_batch is not None:
                on_batch(start + len(chosen))
        if not score_N.isfinite().all():
            row = int((~score_N.isfinite()).nonzero()[0])
            raise UserError(
                f"reward model {self.folder}: score of {answers[row][:60]!r} is {score_N[row]:g}, no finite number; "
                "its weights are damaged, or its training diverged: lower reward.learning_rate"
            )
        return score_N

    def encode(self, prompt: str, answer: str) -> list[int]:
        """Ids of the dialogue, EOS last, its beginning cut off where the context is too short."""
        ids = self._dialogue(prompt, answer)
        return ids if self.context_tokens is None else ids[-self.context_tokens :]

    def _dialogue(self, prompt: str, answer: str) -> list[int]:
        return encode_prompt(self.tokenizer, prompt) + encode_response(self.tokenizer, answer)

    @torch.inference_mode()
    def _score_batch(self, rows: list[list[int]]) -> Tensor:
        """Scores [B].  Padding stands on the right, where a causal model cannot see it, and is masked all the same."""
        last_B = torch.tensor([len(ids) - 1 for ids in rows])
        width = int(last_B.max()) + 1
        ids_BT = torch.tensor([ids + [0] * (width - len(ids)) for ids in rows])
        mask_BT = (torch.arange(width) <= last_B[:, None]).long()
        # Not the model's own forward: it looks for the last token that is not padding, which is the one before
        # the EOS where padding and EOS are the same token.
        hidden_BTD = self.model.base_model(
            input_ids=ids_BT.to(self.model.device), attention_mask=mask_BT.to(self.model.device), use_cache=False
        ).last_hidden_state
        hidden_BD = hidden_BTD[torch.arange(len(rows)), last_B]
        score_B: Tensor = hidden_BD.float() @ self.model.score.weight.float()[0]
        return score_B.cpu()
