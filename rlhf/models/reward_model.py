"""Scores responses: one number per dialogue, read at the EOS token of the response."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.models.loading import Dtype, load_reward_model
from rlhf.models.tokenization import context_length, encode_prompt, encode_response, load_tokenizer


class RewardModel:
    """A reward model with its own tokenizer, so that it can score text of a policy with another tokenizer."""

    def __init__(self, folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Score with `model` on its current device; errors name `folder`, from which it was loaded."""
        self.folder, self.model, self.tokenizer = folder, model, tokenizer
        self.context_length = context_length(model.config)

    @classmethod
    def load(cls, folder: Path, dtype: Dtype, device: torch.device | str) -> Self:
        """Load the reward model in `folder`; raises UserError if that is not a reward model."""
        return cls(folder, load_reward_model(folder, dtype).to(device), load_tokenizer(folder))

    def score(
        self,
        prompts: list[str],
        responses: list[str],
        batch_size: int,
        on_batch: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Scores [N] of N responses to N prompts, in the same order, in float32 on the CPU.

        An EOS is appended to every response, sampled or not, and the score is read there.  A dialogue longer than the
        model's context loses its beginning.  Calls `on_batch` with the number of dialogues scored so far.
        Raises UserError if a score is not finite.
        """
        rows = [self.encode(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        score_N = torch.empty(len(rows))
        by_length = sorted(range(len(rows)), key=lambda row: len(rows[row]))  # needs little padding
        for start in range(0, len(rows), batch_size):
            batch = by_length[start : start + batch_size]
            score_N[batch] = self._score_batch([rows[row] for row in batch])
            if on_batch is not None:
                on_batch(start + len(batch))
        if not score_N.isfinite().all():
            row = int((~score_N.isfinite()).nonzero()[0])
            raise UserError(
                f"reward model {self.folder}: score of {responses[row][:60]!r} is {score_N[row]:g}, not finite; "
                "its weights are damaged, or its training diverged: lower reward.learning_rate"
            )
        return score_N

    def encode(self, prompt: str, response: str) -> list[int]:
        """Token ids of the dialogue, EOS last; its beginning is cut off if it is longer than the context."""
        ids = self._encode_dialogue(prompt, response)
        return ids if self.context_length is None else ids[-self.context_length :]

    def _encode_dialogue(self, prompt: str, response: str) -> list[int]:
        return encode_prompt(self.tokenizer, prompt) + encode_response(self.tokenizer, response)

    @torch.inference_mode()
    def _score_batch(self, rows: list[list[int]]) -> Tensor:
        """Scores [B].  Rows are padded on the right, which a causal model cannot see; the padding is masked as well."""
        last_B = torch.tensor([len(ids) - 1 for ids in rows])
        length = int(last_B.max()) + 1
        ids_BL = torch.tensor([ids + [0] * (length - len(ids)) for ids in rows])
        mask_BL = (torch.arange(length) <= last_B[:, None]).long()
        # Not the model's own forward: it reads the last token that is not padding, which is the one before the EOS
        # if padding and EOS are the same token.
        hidden_BLH = self.model.base_model(
            input_ids=ids_BL.to(self.model.device), attention_mask=mask_BL.to(self.model.device), use_cache=False
        ).last_hidden_state
        hidden_BH = hidden_BLH[torch.arange(len(rows)), last_B]
        score_B: Tensor = hidden_BH.float() @ self.model.score.weight.float()[0]
        return score_B.cpu()
