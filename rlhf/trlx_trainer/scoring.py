"""The reward that trlx is given: the score of an answer, less that of the prompt's chosen answer.

The same numbers as rlhf.reward_model, with the transformers that trlx needs.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf.errors import InputError

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
"""By which the score of a chosen answer may differ from the one that train_reward measured, and that relative too."""


class Scorer:
    """A reward model with its own tokenizer."""

    def __init__(self, folder: Path, dtype: str, device: torch.device | str) -> None:
        """Load the model in `folder`, which has the old layout."""
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # Text that spells a special token is ordinary text, as in rlhf.encoding.
        self.tokenizer.backend_tokenizer.encode_special_tokens = True
        self.model = AutoModelForSequenceClassification.from_pretrained(
            folder, torch_dtype=getattr(torch, dtype), local_files_only=True
        )
        self.model.to(device).eval().requires_grad_(False)
        self.device, self.folder = device, folder
        self.context_tokens = getattr(self.model.config, "max_position_embeddings", None)

    @torch.no_grad()
    def score(self, prompts: list[str], answers: list[str], batch_size: int) -> list[float]:
        """Scores of answers to prompts, read at an EOS put behind each; raises InputError where one is no number."""
        scores: list[float] = []
        for start in range(0, len(prompts), batch_size):
            pairs = zip(prompts[start : start + batch_size], answers[start : start + batch_size], strict=True)
            rows = [self._encode(prompt, answer) for prompt, answer in pairs]
            last_B = torch.tensor([len(ids) - 1 for ids in rows])
            width = int(last_B.max()) + 1
            ids_BT = torch.tensor([ids + [0] * (width - len(ids)) for ids in rows])
            mask_BT = (torch.arange(width) <= last_B[:, None]).long()
            hidden_BTD = self.model.base_model(
                input_ids=ids_BT.to(self.device), attention_mask=mask_BT.to(self.device), use_cache=False
            ).last_hidden_state
            hidden_BD = hidden_BTD[torch.arange(len(rows)), last_B]
            scores += (hidden_BD.float() @ self.model.score.weight.float()[0]).tolist()
        if not torch.tensor(scores).isfinite().all():
            raise InputError(f"reward model {self.folder}: a score is no finite number; its weights are damaged")
        return scores

    def require_same_scores(self, prompts: list[str], chosen: list[str], expected: list[float], dtype: str) -> None:
        """Raise InputError where chosen answers do not score as they did when the reward model was made."""
        tolerance = TOLERANCE[dtype]
        for found, score in zip(self.score(prompts, chosen, len(prompts)), expected, strict=True):
            if abs(found - score) > tolerance * (1 + abs(score)):
                raise InputError(
                    f"trainer (trlx): the reward model scores a chosen answer {found:.4f} there and {score:.4f} with "
                    "this package's libraries; set trainer to own for this model"
                )

    def _encode(self, prompt: str, answer: str) -> list[int]:
        ids = [*self.tokenizer(prompt).input_ids, *self._plain(answer), self.tokenizer.eos_token_id]
        return ids if self.context_tokens is None else ids[-self.context_tokens :]

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids
