"""Judges in results.json: who compared the responses of both models, and with what result.

Four kinds that are never mixed up: people; an independent judge, a reward model that PPO has never seen; the optimized
reward model, which PPO was trained to please; and a language model that was asked.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlhf.results.base import Record, Share

JudgeKind = Literal["people", "independent", "optimised", "llm"]
"""Who compared the responses."""


class WinRate(Record):
    """Win rate of the RLHF model over the SFT model; one half means no preference."""

    mean: float = Field(ge=0, le=1)
    """Wins plus half of the ties, divided by the number of comparisons."""
    ci95: tuple[float, float]
    """95 % interval, low end first; over prompts, or over seeds and prompts if PPO was trained several times."""
    p_value: float = Field(ge=0, le=1)
    """Two-sided p-value of no preference."""


class JudgeResults(Record):
    """One judge's comparison of both models' responses to the test prompts."""

    name: str
    """Name for readers."""
    kind: JudgeKind
    """Who compared the responses; `optimised` is the reward model that PPO was trained to please."""
    wins: int = Field(ge=0)
    """Comparisons in which the RLHF model's response is better; over all seeds, if there are several."""
    ties: int = Field(ge=0)
    """Comparisons without a preference.  Equal responses are a tie."""
    losses: int = Field(ge=0)
    """Comparisons in which the SFT model's response is better."""
    win_rate: WinRate
    """Win rate; a tie counts as half a win."""
    length_controlled_win_rate: WinRate
    """Win rate that is expected of responses of equal length."""
    accuracy: Share | None = None
    """Share of held-out pairs on which a reward model prefers the same response as people; null for others."""
    agreement_with_people: Share | None = None
    """Share of pairs on which it prefers the same response as people; null before there are labels."""
    position_flips: int | None = Field(default=None, ge=0)
    """Pairs on which a language model's answer depended on the order; null for others."""
    unreadable: int | None = Field(default=None, ge=0)
    """Answers of a language model that name no response; null for others."""
