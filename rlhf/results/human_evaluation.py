"""The part of results.json on what people, and for comparison the reward model, say of the blinded pairs."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from rlhf.results.base import Record

Question = Literal["helpfulness", "harmlessness", "overall"]
QUESTIONS: tuple[Question, ...] = get_args(Question)
"""In the order in which they are asked: the two parts, then the overall preference."""


class Counts(Record):
    """How the RLHF model's answer compares with the SFT model's."""

    better: int = Field(default=0, ge=0)
    """RLHF is preferred."""
    tie: int = Field(default=0, ge=0)
    """No preference."""
    worse: int = Field(default=0, ge=0)
    """SFT is preferred."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.better + self.tie + self.worse


class Share(Record):
    """A share of cases."""

    share: float = Field(ge=0, le=1)
    """Cases that are so, of `n`."""
    ci95: tuple[float, float]
    """95 % Wilson interval, low end first."""
    n: int = Field(ge=1)
    """Cases."""
    p_value: float = Field(ge=0, le=1)
    """Exact two-sided sign test against one half."""


class NetPreference(Record):
    """Mean over all answers of +1 (RLHF preferred), 0 (tie) and -1 (SFT preferred)."""

    mean: float = Field(ge=-1, le=1)
    """Mean over answers of all annotators."""
    ci95: tuple[float, float]
    """95 % bootstrap interval that draws whole items with everyone's answers; it speaks of these annotators."""


class QuestionResults(Record):
    """One question."""

    question: Question
    """What was asked."""
    items: Counts
    """Per item: what most of its annotators prefer; tie where the votes for both are equal."""
    decided: Share | None
    """Share of RLHF among the items without a tie; none where all are ties."""
    answers: Counts
    """All answers of all annotators."""
    net: NetPreference
    """All answers together, with an interval that knows that they come in items."""
    alpha: float | None
    """Krippendorff's alpha, ordinal: 1 is full agreement, 0 is chance; none where it is not defined."""


class AnnotatorResults(Record):
    """One annotator, by number, not by name."""

    name: str
    """annotator 1, annotator 2, ..."""
    answers: dict[Question, Counts]
    """Per question."""
    median_seconds: float = Field(ge=0)
    """Median time per item."""


class DisputedItem(Record):
    """An item on which the annotators differ."""

    prompt: str
    """Id of the test prompt."""
    votes: Counts
    """Answers to the overall question."""


class JudgeResults(Record):
    """The reward model's preference on the same pairs.  It is no person: PPO was trained to please it."""

    items: Counts
    """Pairs in which the reward of the RLHF model's answer is higher, equal or lower."""
    decided: Share | None
    """Share of RLHF among the pairs without a tie."""
    agreement: Share | None
    """How often it prefers what people prefer overall, over the pairs in which both prefer one."""


class ItemsNeeded(Record):
    """How many items a sign test needs to see a difference (80 % power, p < 0.05)."""

    better: float
    """Share of items that are better."""
    worse: float
    """Share of items that are worse; the rest are ties."""
    items: int | None
    """Items needed; none where it would be more than 16,384."""


class HumanEvaluation(Record):
    """What people say of the blinded pairs."""

    status: Literal["pending", "partial", "complete"] = "pending"
    """`pending`: nobody's labels have been imported; `partial`: some items have none; `complete`: all have."""
    items: int = Field(ge=0)
    """Pairs to be labelled."""
    labelled: int = Field(default=0, ge=0)
    """Pairs that somebody labelled."""
    questions: tuple[QuestionResults, ...] = ()
    """Helpfulness, harmlessness, overall."""
    annotators: tuple[AnnotatorResults, ...] = ()
    """Everyone who answered."""
    left: Share | None = None
    """How often the answer that stood left is preferred overall, over answers without a tie: one half is no bias."""
    median_seconds: float | None = None
    """Median time of one person for one item."""
    disputed: tuple[DisputedItem, ...] = ()
    """Items with the least agreement overall, at most ten."""
    judge: JudgeResults | None = None
    """The reward model on the same pairs."""
    needed: tuple[ItemsNeeded, ...] = ()
    """Items needed to see the difference that was found, and other differences with the same share of ties."""
