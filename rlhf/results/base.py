"""Base class of all records in results.json, and the records that several parts of it share."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """Base class: immutable, no unknown keys, only finite numbers; docstrings become JSON Schema descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Mean(Record):
    """Mean over one model's outputs."""

    mean: float
    """Mean over the prompts."""
    n: int = Field(ge=1)
    """Number of prompts."""


class Difference(Record):
    """RLHF minus SFT, paired by prompt; over all seeds, if PPO was trained several times."""

    mean: float
    """Mean difference."""
    ci95: tuple[float, float]
    """95 % interval of the mean difference, low end first: bootstrap (BCa) over prompts, or over seeds and prompts."""
    p_value: float = Field(ge=0, le=1)
    """Two-sided p-value: sign-flip permutation test over prompts, or from the interval over seeds and prompts."""

    @property
    def sign(self) -> Literal[-1, 0, 1]:
        """-1 if the interval is entirely below zero, 1 if it is entirely above zero, 0 if it includes zero."""
        low, high = self.ci95
        return 1 if low > 0 else -1 if high < 0 else 0


class PairedMetric(Record):
    """One metric of both models on the same rows."""

    sft: Mean
    """The SFT model."""
    rlhf: Mean
    """The RLHF model."""
    difference: Difference
    """RLHF minus SFT, paired by row."""


class Counts(Record):
    """Wins, ties and losses of the RLHF model against the SFT model."""

    wins: int = Field(default=0, ge=0)
    """RLHF is preferred."""
    ties: int = Field(default=0, ge=0)
    """No preference."""
    losses: int = Field(default=0, ge=0)
    """SFT is preferred."""

    @property
    def total(self) -> int:
        """Wins, ties and losses together."""
        return self.wins + self.ties + self.losses


class Share(Record):
    """A share with its interval and a test against one half."""

    share: float = Field(ge=0, le=1)
    """Share of the `n` cases."""
    ci95: tuple[float, float]
    """95 % Wilson interval, low end first."""
    n: int = Field(ge=1)
    """Number of cases."""
    p_value: float = Field(ge=0, le=1)
    """Exact two-sided sign test against one half."""
