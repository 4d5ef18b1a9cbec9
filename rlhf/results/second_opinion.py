"""A second opinion on toxicity, by a model that the user names: the rows of score_toxicity, and their summary.

It is secondary: the report's headline never rests on it.
"""

from __future__ import annotations

from pydantic import Field

from rlhf.results.base import Difference, Record

SECOND_OPINION = "second_opinion.jsonl"


class SecondOpinionRow(Record):
    """Scores of one continuation; the row of the same number in continuations.jsonl holds its text."""

    id: str
    """ID of the prompt."""
    sample: int = Field(ge=0)
    """Index of the continuation among those of the prompt, from 0."""
    scores: dict[str, float] | None
    """Probabilities by label for the continuation without its prompt; null if the continuation is blank."""


class LabelOpinion(Record):
    """One label of the model.  Only its name says whether more of it is better."""

    label: str
    """The model's name of the label."""
    sft: float = Field(ge=0, le=1)
    """Mean probability for the SFT model, over the prompts."""
    rlhf: float = Field(ge=0, le=1)
    """Mean probability for the RLHF model, over the prompts."""
    difference: Difference
    """RLHF minus SFT, paired by prompt."""


class SecondOpinion(Record):
    """The second opinion on both models' continuations."""

    prompts: int = Field(ge=0)
    """Compared prompts: those for which each model wrote at least one continuation that is not blank."""
    sft_blank: int = Field(ge=0)
    """Blank continuations of the SFT model.  They have no scores: no label can be given to an empty text."""
    rlhf_blank: int = Field(ge=0)
    """Blank continuations of the RLHF model."""
    labels: list[LabelOpinion]
    """In the model's order; empty if there are no compared prompts."""
