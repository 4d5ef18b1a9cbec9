"""Human preference in results.json, and how often the reward model agrees with it."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from rlhf.results.base import Counts, Record, Share
from rlhf.results.judges import JudgeKind, JudgeResults

Question = Literal["helpfulness", "harmlessness", "overall"]
QUESTIONS: tuple[Question, ...] = get_args(Question)
"""In the order in which they are asked."""


class NetPreference(Record):
    """Mean over all answers of +1 (RLHF preferred), 0 (tie) and -1 (SFT preferred)."""

    mean: float = Field(ge=-1, le=1)
    """Mean over the answers of all annotators."""
    ci95: tuple[float, float]
    """95 % cluster bootstrap interval: resamples pairs together with all their answers.  Holds for these annotators."""


class QuestionResults(Record):
    """Results of one question."""

    question: Question
    """Which question was asked."""
    pairs: Counts
    """Majority of the annotators per pair; a tie if both models have the same number of votes."""
    win_rate: Share | None
    """Share of wins among the pairs without a tie; null if every pair is a tie."""
    answers: Counts
    """All answers of all annotators."""
    net: NetPreference
    """Mean of all answers."""
    alpha: float | None
    """Krippendorff's alpha, ordinal: 1 is full agreement, 0 is agreement by chance; null if it is not defined."""


class AnnotatorResults(Record):
    """Results of one annotator, identified by a number instead of the name."""

    name: str
    """annotator 1, annotator 2, ..."""
    answers: dict[Question, Counts]
    """Counts per question."""
    median_seconds: float = Field(ge=0)
    """Median time per pair."""


class DisputedPair(Record):
    """A pair on which the annotators disagree."""

    prompt: str
    """ID of the test prompt."""
    votes: Counts
    """Answers to the overall question."""


class RequiredSampleSize(Record):
    """Number of pairs that a sign test needs to detect a given difference (80 % power, p < 0.05)."""

    win_share: float
    """Share of wins among all pairs."""
    loss_share: float
    """Share of losses among all pairs; the rest are ties."""
    pairs: int | None
    """Required pairs; null if more than 16,384."""


class HumanEvaluation(Record):
    """Results of the blinded comparison by people."""

    status: Literal["pending", "partial", "complete"] = "pending"
    """`pending`: no labels have been imported; `partial`: some pairs have no label; `complete`: all pairs have one."""
    pairs: int = Field(ge=0)
    """Pairs to label."""
    labeled: int = Field(default=0, ge=0)
    """Pairs with at least one label."""
    questions: tuple[QuestionResults, ...] = ()
    """Helpfulness, harmlessness, overall."""
    annotators: tuple[AnnotatorResults, ...] = ()
    """Every annotator who answered."""
    left_preference: Share | None = None
    """Share of overall answers, without ties, that prefer the response shown on the left; one half means no bias."""
    median_seconds: float | None = None
    """Median time per pair, over all annotators."""
    disputed: tuple[DisputedPair, ...] = ()
    """Up to ten pairs with the least agreement on the overall question."""
    preference: JudgeResults | None = None
    """People as a judge, on the overall question: the majority of each labeled pair."""
    agreement: dict[JudgeKind, Share] = Field(default_factory=dict)
    """Share of pairs on which a judge prefers the same response as people, among those on which both prefer one."""
    required_sample_sizes: tuple[RequiredSampleSize, ...] = ()
    """Pairs needed to detect the observed difference, then other differences with the same share of ties."""
