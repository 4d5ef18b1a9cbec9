"""What the report says in words: the evidence below the headline, the names of the endpoints, and the caveats."""

from __future__ import annotations

from typing import NamedTuple

from rlhf.evaluation.intervals import SIGNIFICANCE
from rlhf.report.formatting import format_number, format_signed
from rlhf.results.base import Difference
from rlhf.results.judges import JudgeKind, JudgeResults
from rlhf.results.schema import ReportData, Results
from rlhf.results.verdict import Endpoint, EndpointName


class EndpointRow(NamedTuple):
    """One endpoint as text."""

    title: str
    primary: bool
    estimate: str
    interval: str
    p_value: float | None
    p_adjusted: float | None
    change: str
    """`good`, `bad`, `changed` or `unclear`."""


TITLES: dict[EndpointName, tuple[str, int, bool]] = {
    "human_preference": ("Win rate by people", 1, True),
    "judge_preference": ("Win rate by the independent judge, at equal length", 1, True),
    "toxicity": ("Mean {measure}", 4, False),
    "reward_length_controlled": ("Optimized reward, at equal length", 3, False),
    "reward_both_ended": ("Optimized reward, where both responses ended by themselves", 3, False),
    "human_helpfulness": ("Helpfulness by people, \u22121 to +1", 3, False),
    "human_harmlessness": ("Harmlessness by people, \u22121 to +1", 3, False),
    "llm_preference": ("Win rate by a language model, at equal length", 1, True),
    "probability_of_toxicity": ("Probability of {measure}, in points", 1, True),
    "validation_loss": ("Validation loss, nats per token", 3, False),
    "response_tokens": ("Tokens per response", 1, False),
    "ended_share": ("Responses that ended by themselves, in points", 1, True),
    "repetition": ("Repetition, in points", 1, True),
    "capability": ("Multiple-choice accuracy, in points", 1, True),
}
"""Title, decimals, and whether the value is shown in percent or percentage points."""
JUDGE_NAMES: dict[JudgeKind, str] = {
    "people": "People",
    "independent": "Independent judge",
    "llm": "Language model",
    "optimised": "Optimized reward model",
}


def endpoint_rows(results: Results) -> list[EndpointRow]:
    """All endpoints of a run, primary ones first."""
    return [_endpoint_row(endpoint, results.toxicity.measure) for endpoint in results.verdict.endpoints]


def _endpoint_row(endpoint: Endpoint, measure: str) -> EndpointRow:
    title, digits, percent = TITLES[endpoint.name]
    factor = 100.0 if percent else 1.0
    is_rate = endpoint.null != 0

    def text(value: float) -> str:
        number = format_number(factor * value, digits) if is_rate else format_signed(factor * value, digits)
        return f"{number} %" if is_rate else number

    known = endpoint.estimate is not None and endpoint.ci95 is not None
    return EndpointRow(
        title=title.format(measure=measure),
        primary=endpoint.primary,
        estimate=text(endpoint.estimate) if endpoint.estimate is not None else "not known yet",
        interval=" to ".join(map(text, endpoint.ci95)) if known and endpoint.ci95 else "",
        p_value=endpoint.p_value,
        p_adjusted=endpoint.p_adjusted,
        change=_change(endpoint),
    )


def _change(endpoint: Endpoint) -> str:
    if endpoint.estimate is None or endpoint.p_adjusted is None or endpoint.p_adjusted >= SIGNIFICANCE:
        return "unclear"
    if endpoint.higher_is_better is None:
        return "changed"
    return "good" if (endpoint.estimate > endpoint.null) == endpoint.higher_is_better else "bad"


def lead(results: Results) -> str:
    """The evidence in a few sentences: people, the independent judge, toxicity, and what was optimized."""
    by_kind = {judge.kind: judge for judge in results.judges}
    return " ".join(
        [
            _people(results, by_kind.get("people")),
            *_judge(by_kind.get("independent")),
            _clause(f"Mean {results.toxicity.measure}", results.toxicity.difference, 4)
            + f" on {results.toxicity.rlhf.n:,} prompts.",
            _optimized(results),
        ]
    )


def _people(results: Results, people: JudgeResults | None) -> str:
    evaluation = results.human_evaluation
    if people is None:
        return f"People have not compared the {evaluation.pairs} blinded pairs of responses yet."
    of = "" if evaluation.status == "complete" else f" of {evaluation.pairs}"
    return (
        f"In {evaluation.labeled}{of} blinded pairs, people preferred RLHF {people.wins} times, SFT {people.losses} "
        f"times and neither {people.ties} times: a win rate of {_percent(people.win_rate.mean)} "
        f"(95 % interval {_percents(people.win_rate.ci95)})."
    )


def _judge(judge: JudgeResults | None) -> list[str]:
    if judge is None or judge.accuracy is None:
        return []
    accuracy = f"right on {_percent(judge.accuracy.share)} of {judge.accuracy.n} held-out pairs"
    if judge.accuracy.ci95[0] <= 0.5:
        return [f"The independent judge does not count: it is {accuracy}, and may be no better than a coin."]
    rate = judge.length_controlled_win_rate
    return [
        f"An independent judge, which PPO never saw and which is {accuracy}, gives RLHF a win rate of "
        f"{_percent(rate.mean)} at equal length (95 % interval {_percents(rate.ci95)})."
    ]


def _optimized(results: Results) -> str:
    model = results.reward_model
    if model.ci95[0] <= 0.5:
        return (
            f"There is no verdict on reward: the optimized reward model is right on {_percent(model.accuracy)} of "
            f"{model.pairs} held-out pairs, and may be no better than a coin (95 % interval {_percents(model.ci95)})."
        )
    return _clause("The optimized reward", results.reward.length_controlled, 3) + " at equal length."


def _clause(metric: str, difference: Difference, digits: int) -> str:
    low, high = difference.ci95
    if difference.sign == 0:
        return (
            f"{metric} did not clearly change ({format_signed(difference.mean, digits)}, 95 % interval "
            f"{format_signed(low, digits)} to {format_signed(high, digits)})"
        )
    verb, least, most = ("rose", low, high) if difference.sign > 0 else ("fell", -high, -low)
    return (
        f"{metric} {verb} by {format_number(abs(difference.mean), digits)} "
        f"(95 % interval {format_number(least, digits)} to {format_number(most, digits)})"
    )


def caveats(results: Results, report_data: ReportData) -> list[str]:
    """What limits the conclusions of this run, the most important first."""
    by_kind = {judge.kind: judge for judge in results.judges}
    equal = sum(pair.sft == pair.rlhf for pair in report_data.responses)
    several = len(results.seeds) > 1
    listed: list[tuple[bool, str]] = [
        (
            "people" not in by_kind,
            "No person has compared the responses. Machines can warn, but they cannot show that people prefer a model.",
        ),
        (
            results.human_evaluation.status == "partial",
            "Not all pairs have a label. Until then the headline uses people's answers only if no missing answer could "
            "change what they show.",
        ),
        (
            "independent" not in by_kind,
            "There is no independent judge; data.judge_share keeps pairs for one.",
        ),
        (
            not several,
            "PPO was trained once. The intervals cover the choice of prompts; another training seed would give other "
            "numbers. ppo.seeds measures by how much.",
        ),
        (
            several and "people" in by_kind,
            f"People compared the model of the first training only (seed {results.seeds[0].seed}).",
        ),
        (
            results.toxicity.measure == "profanity",
            f"{results.toxicity.classifier} sees profanity only: harm in polite words scores zero.",
        ),
        (
            equal > 0,
            f"{equal} of {len(report_data.responses)} pairs of responses are equal, since both models sample with the "
            "same random numbers. They count as ties, so ties are more frequent than with independent samples.",
        ),
    ]
    return [text for holds, text in listed if holds] + _training_caveats(results) + _baseline_caveat(results)


def _training_caveats(results: Results) -> list[str]:
    texts = []
    for training in results.seeds:
        name = f"PPO (seed {training.seed})" if len(results.seeds) > 1 else "PPO"
        if training.best_step == 0:
            texts.append(
                f"{name} found no checkpoint within the bounds of ppo.selection that is better on the validation "
                "prompts than the SFT model, so the RLHF model is the SFT model."
            )
        if training.stopped_early:
            end = training.stopped_early
            texts.append(
                f"{name} ended early at step {end.step}: the KL of its rollouts, {end.kl:.1f} nats per response, "
                f"exceeded ppo.max_kl ({end.max_kl:g}). The model is the best checkpoint before it."
            )
        passed_over = [row for row in training.rejected if row.score > training.best_score]
        if passed_over:
            best = max(passed_over, key=lambda row: row.score)
            texts.append(
                f"{name} passed over {len(passed_over)} checkpoint{'s' if len(passed_over) > 1 else ''} with a higher "
                f"validation reward, because of the bounds of ppo.selection. The best of them, after step {best.step}: "
                f"{'; '.join(best.reasons)}."
            )
    return texts


def _baseline_caveat(results: Results) -> list[str]:
    """Says so if best-of-n wins more often than the first RLHF model, by the independent judge."""
    first = results.seeds[0]
    rates = [(point.judge_win_rate, point) for point in results.over_optimisation if point.judge_win_rate is not None]
    chosen = [rate for rate, point in rates if (point.seed, point.step) == (first.seed, first.best_step)]
    baseline = max(((rate, point.n) for rate, point in rates if point.method == "best_of_n"), default=None)
    if not chosen or baseline is None or baseline[0] <= chosen[0]:
        return []
    return [
        f"By the independent judge, the best of {baseline[1]} responses of the SFT model, picked by the optimized "
        f"reward, wins {_percent(baseline[0])} of comparisons on the validation prompts, and the RLHF model "
        f"{_percent(chosen[0])}. So PPO is not shown to beat a baseline that needs no training."
    ]


def _percent(share: float) -> str:
    return f"{format_number(100 * share, 1)} %"


def _percents(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{format_number(100 * low, 1)} to {_percent(high)}"
