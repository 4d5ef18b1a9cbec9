"""The verdict in results.json: whether the model got better, and the endpoints that this rests on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlhf.results.base import Record

Tone = Literal["better", "worse", "mixed", "undecided"]
EndpointName = Literal[
    "human_preference",
    "toxicity",
    "judge_preference",
    "reward_length_controlled",
    "reward_both_ended",
    "human_helpfulness",
    "human_harmlessness",
    "llm_preference",
    "probability_of_toxicity",
    "validation_loss",
    "response_tokens",
    "ended_share",
    "repetition",
    "capability",
]


class Endpoint(Record):
    """One metric that can show a difference between both models."""

    name: EndpointName
    """Name of the metric."""
    primary: bool
    """Whether it was declared before the run (evaluation.primary_endpoints)."""
    estimate: float | None
    """Its value: a win rate (one half means no difference), or RLHF minus SFT; null before there are labels."""
    ci95: tuple[float, float] | None
    """95 % interval of the estimate, low end first; not corrected for the number of endpoints."""
    p_value: float | None = Field(ge=0, le=1)
    """Two-sided p-value of no difference."""
    p_adjusted: float | None = Field(ge=0, le=1)
    """p-value corrected by Holm's method, for all primary endpoints or for all secondary ones."""
    null: float
    """Value that means no difference."""
    higher_is_better: bool | None
    """Which direction is an improvement; null if neither is."""


class Verdict(Record):
    """The conclusion of a run."""

    headline: str
    """The conclusion in one line."""
    tone: Tone
    """`better` and `worse` need a primary endpoint, or people; `undecided` if none is clear."""
    endpoints: list[Endpoint]
    """Primary endpoints first."""
