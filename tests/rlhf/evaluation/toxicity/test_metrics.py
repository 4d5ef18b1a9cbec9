"""Toxicity metrics against values worked out by hand, without an effect, and with an injected one."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf.evaluation.toxicity.continuations import Continuation
from rlhf.evaluation.toxicity.metrics import toxicity_metrics
from rlhf.results.toxicity import PairedToxicity, ToxicityMetrics

PROMPTS = {"a": 0.9, "b": 0.5, "c": 0.49, "d": None}
"""Toxicity of each prompt according to the data: two are toxic, one is not, one has no score."""


def rows(scores: dict[str, list[float]], prompts: dict[str, float | None] | None = None) -> list[Continuation]:
    """One row per prompt and score; the label insult has half the score."""
    return [
        Continuation(
            id=prompt,
            prompt=f"prompt {prompt}",
            prompt_toxicity=(PROMPTS if prompts is None else prompts)[prompt],
            sample=sample,
            continuation="text",
            seed=1,
            scores={"insult": score / 2, "toxicity": score},
        )
        for prompt, prompt_scores in scores.items()
        for sample, score in enumerate(prompt_scores)
    ]


def paired(metrics: ToxicityMetrics, group: str, name: str) -> PairedToxicity:
    metric = getattr(getattr(metrics.labels[0], group), name)
    assert isinstance(metric, PairedToxicity)
    return metric


SFT = rows({"a": [0.9, 0.1], "b": [0.2, 0.4], "c": [0.6, 0.0], "d": [0.0, 0.0]})
RLHF = rows({"a": [0.4, 0.2], "b": [0.1, 0.1], "c": [0.3, 0.1], "d": [0.8, 0.0]})


def test_metrics_of_two_continuations_by_hand() -> None:
    """Means 0.5 0.3 0.3 0 and 0.3 0.1 0.2 0.4, highest 0.9 0.4 0.6 0 and 0.4 0.1 0.3 0.8, toxic a c and d."""
    metrics = toxicity_metrics(SFT, RLHF, seed=0)
    assert metrics.continuations == 2
    assert metrics.unscored_prompts == 1
    assert [label.label for label in metrics.labels] == ["toxicity", "insult"]
    expected = {
        ("all", "mean"): (1.1 / 4, 1.0 / 4),
        ("all", "expected_maximum"): (1.9 / 4, 1.6 / 4),
        ("all", "probability"): (2 / 4, 1 / 4),
        ("toxic", "mean"): (0.8 / 2, 0.4 / 2),
        ("toxic", "expected_maximum"): (1.3 / 2, 0.5 / 2),
        ("toxic", "probability"): (1 / 2, 0.0),
        ("nontoxic", "mean"): (0.3, 0.2),
        ("nontoxic", "expected_maximum"): (0.6, 0.3),
        ("nontoxic", "probability"): (1.0, 0.0),
    }
    for (group, name), (sft, rlhf) in expected.items():
        metric = paired(metrics, group, name)
        assert (metric.sft, metric.rlhf) == pytest.approx((sft, rlhf)), (group, name)
        assert metric.difference == pytest.approx(rlhf - sft)
    toxic, nontoxic = metrics.labels[0].toxic, metrics.labels[0].nontoxic
    assert toxic is not None
    assert nontoxic is not None
    assert [metrics.labels[0].all.prompts, toxic.prompts, nontoxic.prompts] == [4, 2, 1]


def test_tests_by_hand() -> None:
    """Mean differences -0.2 -0.2 -0.1 +0.4: of 16 sign patterns 9 sum to at most -0.1, 9 to at least 0.1.

    Three prompts differ in whether they are toxic: two no longer are, one is newly so; p = min(1, 2 * 4 / 8) = 1.
    """
    metrics = toxicity_metrics(SFT, RLHF, seed=0)
    sums = [a * 0.2 + b * 0.2 + c * 0.1 + d * 0.4 for a in (1, -1) for b in (1, -1) for c in (1, -1) for d in (1, -1)]
    expected = 2 * sum(total <= -0.1 + 1e-9 for total in sums) / 16
    assert paired(metrics, "all", "mean").p_value == pytest.approx(min(1.0, expected))
    assert paired(metrics, "all", "probability").p_value == 1.0
    assert paired(metrics, "toxic", "mean").p_value == pytest.approx(2 / 4)  # both fell by 0.2: one pattern of four


def test_shares_are_compared_by_the_mcnemar_test() -> None:
    """Eight prompts are no longer toxic, one newly: (1 + 9) / 2^9 x 2."""
    before, after = [0.9] * 8 + [0.1] * 12, [0.1] * 8 + [0.9] + [0.1] * 11
    metrics = toxicity_metrics(*_of(before, after), seed=0)
    assert paired(metrics, "all", "probability").p_value == pytest.approx(2 * (1 + 9) / 2**9)


def test_an_empty_group_has_no_metrics() -> None:
    metrics = toxicity_metrics(*_of([0.1, 0.2], [0.2, 0.3], own=0.1), seed=0)
    assert metrics.labels[0].toxic is None
    assert metrics.labels[0].nontoxic == metrics.labels[0].all


def test_one_continuation_is_its_own_maximum() -> None:
    metrics = toxicity_metrics(*_of([0.1, 0.7], [0.2, 0.3]), seed=0)
    assert metrics.labels[0].all.expected_maximum == metrics.labels[0].all.mean


def test_every_label_has_its_own_scores() -> None:
    metrics = toxicity_metrics(SFT, RLHF, seed=0)
    assert metrics.labels[1].all.mean.sft == pytest.approx(metrics.labels[0].all.mean.sft / 2)
    assert metrics.labels[1].all.probability.sft == 0.0  # 0.45 at most


@pytest.mark.parametrize(
    ("scores", "main"),
    [
        ({"insult": 0.1, "profanity": 0.2, "toxicity": 0.7}, "toxicity"),
        ({"insult": 0.1, "profanity": 0.7}, "profanity"),
    ],
)
def test_the_main_label_is_compared_and_comes_first(scores: dict[str, float], main: str) -> None:
    """A profanity detector has no label toxicity; a toxicity classifier may have both."""
    before = [row.model_copy(update={"scores": scores}) for row in rows({"a": [0.0], "c": [0.0]})]
    assert [row.toxicity for row in before] == [0.7, 0.7]
    labels = toxicity_metrics(before, before, seed=0).labels
    assert labels[0].label == main
    assert labels[0].all.mean.sft == pytest.approx(0.7)
    assert [label.label for label in labels[1:]] == [label for label in scores if label != main]


def test_continuations_of_one_prompt_are_not_independent() -> None:
    """Thirty-two equal continuations per prompt give the same interval as one."""
    generator = np.random.default_rng(0)
    before, after = generator.random((2, 50)).tolist()
    one = toxicity_metrics(*_of(before, after), seed=0)
    many = toxicity_metrics(*_of(before, after, continuations=32), seed=0)
    interval, expected = paired(many, "all", "mean"), paired(one, "all", "mean")
    assert interval.ci95 == pytest.approx(expected.ci95)
    assert interval.p_value == pytest.approx(expected.p_value)


def test_a_model_does_not_differ_from_itself() -> None:
    scores = np.random.default_rng(1).beta(0.3, 1.7, 300).tolist()
    for name in ("mean", "expected_maximum", "probability"):
        metric = paired(toxicity_metrics(*_of(scores, scores, continuations=3), seed=0), "all", name)
        assert (metric.difference, metric.ci95, metric.p_value) == (0.0, (0.0, 0.0), 1.0)


def test_noise_is_not_significant_but_a_shift_is() -> None:
    """Long-tailed scores like those of real models, four continuations of 400 prompts; the shift is 0.05."""
    generator = np.random.default_rng(2)
    first, second = generator.beta(0.3, 1.7, (2, 400, 4))
    null = toxicity_metrics(*_of_table(first, second), seed=0)
    shifted = toxicity_metrics(*_of_table(first, np.minimum(second + 0.05, 1.0)), seed=0)
    for name in ("mean", "expected_maximum", "probability"):
        metric = paired(null, "all", name)
        assert metric.ci95[0] < 0 < metric.ci95[1]
        assert metric.p_value > 0.05
    for name in ("mean", "expected_maximum"):
        metric = paired(shifted, "all", name)
        assert metric.ci95[0] > 0
        assert metric.p_value < 0.01


def _of(
    before: list[float], after: list[float], *, own: float = 0.1, continuations: int = 1
) -> tuple[list[Continuation], list[Continuation]]:
    prompts: dict[str, float | None] = {str(number): own for number in range(len(before))}
    sft, rlhf = (
        rows({str(number): [float(score)] * continuations for number, score in enumerate(scores)}, prompts)
        for scores in (before, after)
    )
    return sft, rlhf


def _of_table(before_NK: np.ndarray, after_NK: np.ndarray) -> tuple[list[Continuation], list[Continuation]]:
    prompts: dict[str, float | None] = {str(number): 0.1 for number in range(len(before_NK))}
    sft, rlhf = (
        rows({str(number): scores for number, scores in enumerate(table.tolist())}, prompts)
        for table in (before_NK, after_NK)
    )
    return sft, rlhf
