"""Base of every record of results.json, and the two that all parts of it use."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """Base of every part: immutable, no unknown keys, no NaN, docstrings become descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Mean(Record):
    """Mean of one model."""

    mean: float
    """Mean over the prompts."""
    n: int = Field(ge=1)
    """Number of prompts."""


class Difference(Record):
    """RLHF minus SFT, paired by prompt."""

    mean: float
    """Mean difference."""
    ci95: tuple[float, float]
    """95 % bootstrap interval (BCa) of the mean difference, low end first."""
    p_value: float = Field(ge=0, le=1)
    """Two-sided p-value of the sign-flip permutation test."""

    @property
    def sign(self) -> Literal[-1, 0, 1]:
        """Whether all of the interval lies below zero (-1) or above it (1); 0 where it includes zero."""
        low, high = self.ci95
        return 1 if low > 0 else -1 if high < 0 else 0
