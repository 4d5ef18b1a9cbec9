"""The metrics of a run that can show a difference, with p-values that are corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rlhf.evaluation.intervals import holm
from rlhf.results.base import Difference
from rlhf.results.human_evaluation import HumanEvaluation, Question
from rlhf.results.judges import JudgeKind, JudgeResults, WinRate
from rlhf.results.schema import Measurements
from rlhf.results.verdict import Endpoint, EndpointName

HALF = 0.5
"""Win rate that means no preference."""


class Estimate(NamedTuple):
    """Value, 95 % interval and p-value of an endpoint."""

    value: float
    ci95: tuple[float, float]
    p_value: float


class Row(NamedTuple):
    """An endpoint without correction."""

    name: EndpointName
    known: Estimate | None
    """None if it is not known yet."""
    null: float
    higher_is_better: bool | None


def list_endpoints(measured: Measurements, judges: Sequence[JudgeResults], people: HumanEvaluation) -> list[Endpoint]:
    """All endpoints of a run, primary ones first.

    Primary and secondary endpoints are corrected apart.  A primary endpoint that is not known yet counts in the
    correction, so that later labels cannot weaken it.
    """
    rows = _rows(measured, judges, people)
    primary = [row for row in rows if row.name in measured.primary_endpoints]
    secondary = [row for row in rows if row.name not in measured.primary_endpoints and row.known is not None]
    return [*_corrected(primary, primary=True), *_corrected(secondary, primary=False)]


def _rows(measured: Measurements, judges: Sequence[JudgeResults], people: HumanEvaluation) -> list[Row]:
    by_kind: dict[JudgeKind, JudgeResults] = {judge.kind: judge for judge in judges}
    reward, comparison = measured.reward, measured.policy_comparison
    independent, llm = by_kind.get("independent"), by_kind.get("llm")
    capability = measured.capability
    return [
        Row("human_preference", _win_rate(people.preference), HALF, True),
        Row("judge_preference", _win_rate_at_equal_length(independent), HALF, True),
        Row("toxicity", _difference(measured.toxicity.difference), 0.0, False),
        Row("reward_length_controlled", _difference(reward.length_controlled), 0.0, True),
        Row("reward_both_ended", _difference(reward.both_ended), 0.0, True),
        Row("human_helpfulness", _question(people, "helpfulness"), 0.0, True),
        Row("human_harmlessness", _question(people, "harmlessness"), 0.0, True),
        Row("llm_preference", _win_rate_at_equal_length(llm), HALF, True),
        Row("probability_of_toxicity", _difference(measured.toxicity.probability), 0.0, False),
        Row("validation_loss", _difference(comparison.validation_loss.difference), 0.0, False),
        Row("response_tokens", _difference(comparison.response_tokens.difference), 0.0, None),
        Row("ended_share", _difference(comparison.ended_share.difference), 0.0, None),
        Row("repetition", _difference(comparison.repetition.difference), 0.0, False),
        Row("capability", _difference(capability.difference if capability else None), 0.0, True),
    ]


def _corrected(rows: Sequence[Row], *, primary: bool) -> list[Endpoint]:
    adjusted = holm([1.0 if row.known is None else row.known.p_value for row in rows])
    return [
        Endpoint(
            name=row.name,
            primary=primary,
            estimate=row.known and row.known.value,
            ci95=row.known and row.known.ci95,
            p_value=row.known and row.known.p_value,
            p_adjusted=row.known and p_adjusted,
            null=row.null,
            higher_is_better=row.higher_is_better,
        )
        for row, p_adjusted in zip(rows, adjusted, strict=True)
    ]


def _win_rate(judge: JudgeResults | None) -> Estimate | None:
    return _estimate(judge.win_rate) if judge else None


def _win_rate_at_equal_length(judge: JudgeResults | None) -> Estimate | None:
    return _estimate(judge.length_controlled_win_rate) if judge else None


def _difference(difference: Difference | None) -> Estimate | None:
    return _estimate(difference) if difference else None


def _estimate(metric: WinRate | Difference) -> Estimate:
    return Estimate(metric.mean, metric.ci95, metric.p_value)


def _question(people: HumanEvaluation, name: Question) -> Estimate | None:
    for question in people.questions:
        if question.question == name:
            p_value = question.win_rate.p_value if question.win_rate else 1.0
            return Estimate(question.net.mean, question.net.ci95, p_value)
    return None
