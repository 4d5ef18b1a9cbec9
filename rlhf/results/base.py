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
    """RLHF minus SFT, paired by prompt."""

    mean: float
    """Mean difference."""
    ci95: tuple[float, float]
    """95 % bootstrap interval (BCa) of the mean difference, low end first."""
    p_value: float = Field(ge=0, le=1)
    """Two-sided p-value of the sign-flip permutation test."""

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
