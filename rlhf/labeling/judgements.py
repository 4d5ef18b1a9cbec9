"""One person's answers about a pair: three questions, each answered with A, B or a tie."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rlhf.results.human_evaluation import Question

Choice = Literal["a", "tie", "b"]
MAX_COMMENT = 2000
"""Characters of a comment."""
MAX_SECONDS = 86_400.0
"""Longest time for one pair; a longer one is a wrong clock."""


class Choices(BaseModel):
    """A choice for every question; `a` and `b` are the manifest's answers, independent of their side on the screen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    helpfulness: Choice
    harmlessness: Choice
    overall: Choice

    def of(self, question: Question) -> Choice:
        """The choice for one of the questions."""
        choice: Choice = getattr(self, question)
        return choice


class Judgement(BaseModel):
    """One person's final answer to one pair."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pair_id: str
    """Id of the pair in the manifest."""
    annotator: str
    """Pseudonym: it distinguishes people without identifying them."""
    choices: Choices
    left: Literal["a", "b"]
    """Answer that was shown first on this person's screen."""
    seconds: float = Field(ge=0, le=MAX_SECONDS)
    """Time for which the pair was visible."""
    comment: str = Field(default="", max_length=MAX_COMMENT)
    submitted_at: str
    """When the answer was submitted, ISO 8601."""
