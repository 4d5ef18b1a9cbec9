"""The prompts of a run, with what is known of them before it begins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.models.tokenization import encode_prompt
from rlhf.runtime.seeds import row_seed
from rlhf.storage.files import read_jsonl


@dataclass(frozen=True)
class Prompt:
    """A dialogue up to the answer."""

    id: str
    text: str
    token_ids: list[int]
    baseline: float
    """What is taken off the score of an answer: that of the chosen answer, or 0."""


def read_prompts(data: Path, name: str, tokenizer: PreTrainedTokenizerBase, chosen_scores: Path | None) -> list[Prompt]:
    """The prompts of the file `name`, with the scores of their chosen answers where a file of those is given.

    Raises UserError where the file is empty, or a prompt has no such score.
    """
    rows = read_jsonl(data / name)
    if not rows:
        raise UserError(f"{data / name} has no prompts; give more data, or raise data.max_prompt_tokens")
    baselines: dict[str, float] | None = None
    if chosen_scores is not None:
        baselines = {str(row["id"]): float(str(row["score"])) for row in read_jsonl(chosen_scores)}
        missing = [str(row["id"]) for row in rows if str(row["id"]) not in baselines]
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
            baseline=0.0 if baselines is None else baselines[str(row["id"])],
        )
        for row in rows
    ]


def prompt_numbers(step: int, rollouts_per_step: int, prompts: int, seed: int) -> list[int]:
    """Which of the prompts the rollouts of `step` (from 1) answer: all of them in turn, shuffled anew in each epoch."""
    first = (step - 1) * rollouts_per_step
    places = [divmod(place, prompts) for place in range(first, first + rollouts_per_step)]
    return [_order(prompts, row_seed(seed, "prompts", str(epoch)))[place] for epoch, place in places]


@lru_cache(maxsize=4)
def _order(prompts: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(prompts, generator=torch.Generator().manual_seed(seed)).tolist()
    return order
