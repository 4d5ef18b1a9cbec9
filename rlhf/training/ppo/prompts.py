"""The prompts of a PPO run, and the order in which the steps use them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.models.tokenization import encode_prompt
from rlhf.runtime.seeds import derive_seed
from rlhf.storage.files import read_jsonl


@dataclass(frozen=True)
class Prompt:
    """A dialogue without its last response."""

    id: str
    text: str
    token_ids: list[int]
    score_offset: float
    """Subtracted from the score of every response: the score of the chosen response, or 0."""


def read_prompts(data: Path, name: str, tokenizer: PreTrainedTokenizerBase, chosen_scores: Path | None) -> list[Prompt]:
    """Read the prompts in `data`/`name`, with the scores of their chosen responses if `chosen_scores` is a file.

    Raises UserError if there are no prompts, or if a prompt has no such score.
    """
    rows = read_jsonl(data / name)
    if not rows:
        raise UserError(f"{data / name} has no prompts; give more data, or raise data.max_prompt_tokens")
    offsets: dict[str, float] | None = None
    if chosen_scores is not None:
        offsets = {str(row["id"]): float(str(row["score"])) for row in read_jsonl(chosen_scores)}
        missing = [str(row["id"]) for row in rows if str(row["id"]) not in offsets]
        if missing:
            raise UserError(
                f"{chosen_scores} has no score for {len(missing)} of {len(rows)} prompts of {name}, "
                f"the first of them {missing[0]}; "
                "score them with the reward model, or set ppo.subtract_chosen_score to false"
            )
    return [
        Prompt(
            id=str(row["id"]),
            text=str(row["prompt"]),
            token_ids=encode_prompt(tokenizer, str(row["prompt"])),
            score_offset=0.0 if offsets is None else offsets[str(row["id"])],
        )
        for row in rows
    ]


def prompt_indices(step: int, rollouts_per_step: int, prompt_count: int, seed: int) -> list[int]:
    """Index of the prompt of each rollout of `step` (from 1).

    Every pass over the prompts uses each of them once, in an order drawn from the seed and the number of the pass.
    """
    first = (step - 1) * rollouts_per_step
    positions = [divmod(rollout, prompt_count) for rollout in range(first, first + rollouts_per_step)]
    return [_order(prompt_count, derive_seed(seed, "prompts", str(epoch)))[index] for epoch, index in positions]


@lru_cache(maxsize=4)
def _order(prompt_count: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(prompt_count, generator=torch.Generator().manual_seed(seed)).tolist()
    return order
