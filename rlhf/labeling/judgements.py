"""What a person says of one pair: three questions, each answered with A, B or a tie."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rlhf.results.human_evaluation import Question

Choice = Literal["a", "tie", "b"]
MAX_COMMENT = 2000
"""Characters of a comment."""
MAX_SECONDS = 86_400.0
"""Longest time that one pair may take; more is a clock gone wrong."""


class Choices(BaseModel):
    """An answer to every question: `a` and `b` are the manifest's answers, wherever they stood on the screen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    helpfulness: Choice
    harmlessness: Choice
    overall: Choice

    def of(self, question: Question) -> Choice:
        """The choice for one of the questions."""
        choice: Choice = getattr(self, question)
        return choice


class Judgement(BaseModel):
    """One person's finished answer for one pair."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: str
    """Name of the pair in the manifest."""
    annotator: str
    """Pseudonym: it tells people apart, not who they are."""
    choices: Choices
    left: Literal["a", "b"]
    """Which answer stood first on this person's screen."""
    seconds: float = Field(ge=0, le=MAX_SECONDS)
    """Time that the pair was in view."""
    comment: str = Field(default="", max_length=MAX_COMMENT)
    submitted_at: str
    """When it was sent, ISO 8601."""
