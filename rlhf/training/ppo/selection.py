"""Which validated checkpoint becomes the final model: the best score within bounds on what scores do not show.

A policy can raise its score by drifting far from the SFT model, by never ending a response, by changing its length, or
by saying the same to everyone.  Reasons for the default bounds: docs/ppo.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from rlhf.config import SelectionConfig

ValidationRow = Mapping[str, float]
"""A row of validation.jsonl."""
ROUNDING = 1e-9
"""A value that misses its bound by no more is on it."""


class Rejected(BaseModel):
    """A validated checkpoint that cannot become the final model."""

    model_config = ConfigDict(frozen=True)
    step: int
    score: float
    reasons: tuple[str, ...]
    """The bounds that it breaks, as sentences."""


class Selection(NamedTuple):
    """The best checkpoint, and those outside the bounds."""

    best: ValidationRow
    rejected: tuple[Rejected, ...]


def select_checkpoint(validations: Sequence[ValidationRow], bounds: SelectionConfig) -> Selection:
    """The validation with the highest score among those within the bounds; the earliest of equal ones.

    The first of `validations`, in order of their steps, is that of the SFT model, which always qualifies.
    """
    first, *later = validations
    qualified, rejected = [first], []
    for validation in later:
        if reasons := broken_bounds(validation, first, bounds):
            rejected.append(Rejected(step=int(validation["step"]), score=validation["score"], reasons=tuple(reasons)))
        else:
            qualified.append(validation)
    return Selection(max(qualified, key=lambda validation: validation["score"]), tuple(rejected))


def broken_bounds(validation: ValidationRow, sft: ValidationRow, bounds: SelectionConfig) -> list[str]:
    """A sentence for each bound that `validation` breaks; `sft` is the validation of the SFT model.

    A metric that is NaN breaks its bound.
    """
    ended, sft_ended = (1 - row["truncated_share"] for row in (validation, sft))
    tokens, sft_tokens = (row["response_tokens"] for row in (validation, sft))
    distinct, sft_distinct = (row["distinct_ngrams"] for row in (validation, sft))
    least_ended = sft_ended - bounds.max_ended_share_drop
    shortest, longest = sft_tokens / bounds.max_length_ratio, sft_tokens * bounds.max_length_ratio
    least_distinct = sft_distinct * bounds.min_diversity_ratio
    checks = [
        (
            validation["kl"] <= bounds.max_kl,
            f"KL {validation['kl']:.1f} nats per response, at most {bounds.max_kl:g} allowed (ppo.selection.max_kl)",
        ),
        (
            ended >= least_ended - ROUNDING,
            f"{ended:.1%} of the responses end by themselves, {sft_ended:.1%} of the SFT model's, at least "
            f"{least_ended:.1%} needed (ppo.selection.max_ended_share_drop)",
        ),
        (
            shortest - ROUNDING <= tokens <= longest + ROUNDING,
            f"mean length {tokens:.1f} tokens, {sft_tokens:.1f} of the SFT model, {shortest:.1f} to {longest:.1f} "
            "allowed (ppo.selection.max_length_ratio)",
        ),
        (
            distinct >= least_distinct - ROUNDING,
            f"share of distinct 3-grams {distinct:.3f}, {sft_distinct:.3f} of the SFT model, at least "
            f"{least_distinct:.3f} needed (ppo.selection.min_diversity_ratio)",
        ),
    ]
    return [sentence for kept, sentence in checks if not kept]
