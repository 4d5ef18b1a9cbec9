"""Capability before and after PPO: multiple-choice questions, as compare_policies writes them, and their summary.

Each model chooses the answer to which it gives the highest probability.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from rlhf.results.base import Difference, Record

QUESTIONS = "questions.jsonl"


class QuestionRow(Record):
    """The choices of both models for one question.  All choices are indices from 0."""

    id: str
    """ID of the question: a hash of its text and its choices."""
    correct: int = Field(ge=0)
    """The correct choice."""
    choices: int = Field(ge=2)
    """Number of choices."""
    sft: int = Field(ge=0)
    """Choice of the SFT model: highest log-probability."""
    rlhf: int = Field(ge=0)
    """Choice of the RLHF model: highest log-probability."""
    sft_normalized: int = Field(ge=0)
    """Choice of the SFT model by log-probability per byte, which does not favor short choices."""
    rlhf_normalized: int = Field(ge=0)
    """Choice of the RLHF model by log-probability per byte."""

    @model_validator(mode="after")
    def _choices_exist(self) -> Self:
        """Every index is below the number of choices."""
        indices = (self.correct, self.sft, self.rlhf, self.sft_normalized, self.rlhf_normalized)
        if max(indices) >= self.choices:
            raise ValueError(f"question {self.id}: choice {max(indices)} of {self.choices} choices, counted from 0")
        return self


class Accuracy(Record):
    """Share of correct answers of one model."""

    share: float = Field(ge=0, le=1)
    """Share of the questions."""
    ci95: tuple[float, float]
    """95 % Wilson interval, low end first."""


class PairedAccuracy(Record):
    """Share of correct answers of both models to the same questions."""

    sft: Accuracy
    """The SFT model."""
    rlhf: Accuracy
    """The RLHF model."""
    difference: Difference
    """RLHF minus SFT, paired by question: below zero, PPO cost capability.  One seed: p by McNemar's exact test."""


class CapabilityResults(PairedAccuracy):
    """Answers of both models to multiple-choice questions; `sft` and `rlhf` choose by log-probability."""

    questions: int = Field(ge=1)
    """Number of questions."""
    normalized: PairedAccuracy
    """The same if the models choose by log-probability per byte."""
    chance: float = Field(ge=0, le=1)
    """Expected share of correct answers of blind guesses: mean over the questions of 1 / number of choices."""
