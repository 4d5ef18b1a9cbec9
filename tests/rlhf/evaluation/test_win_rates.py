"""Win rates against counts by hand and simulated judges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from rlhf.evaluation.intervals import sign_test_p_value, wilson_interval
from rlhf.evaluation.win_rates import judge_results, outcomes, win_rate

TRIALS = 1500


def test_equal_scores_are_ties_and_ties_are_half_wins() -> None:
    outcome = outcomes(np.array([[2.0, 0.5, 1.0, -3.0]]), np.array([1.0, 0.5, 3.0, -4.0]))
    assert outcome.tolist() == [[1.0, 0.5, 0.0, 1.0]]
    results = judge_results("judge", "independent", outcome, np.zeros((1, 4)))
    assert (results.wins, results.ties, results.losses) == (2, 1, 1)
    assert results.win_rate.mean == 2.5 / 4


def test_without_ties_it_is_wilsons_interval_and_the_sign_test() -> None:
    outcome = np.array([[1.0] * 60 + [0.0] * 40])
    rate = win_rate(outcome)
    # the variance of a sample has the divisor n - 1, and t with 99 degrees of freedom is 1.984
    effective = 100 * (99 / 100) * (1.96 / 1.984) ** 2
    assert rate.ci95 == pytest.approx(wilson_interval(0.6 * effective, effective), abs=2e-4)
    assert rate.p_value == sign_test_p_value(60, 40)


def test_extremes_keep_an_interval() -> None:
    assert win_rate(np.ones((1, 20))).ci95 == wilson_interval(20, 20)
    assert win_rate(np.full((1, 20), 0.5)) == (0.5, (0.5, 0.5), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "prompts", "share", "ties"),
    [(1, 100, 0.5, 0.0), (1, 100, 0.8, 0.3), (1, 40, 0.6, 0.5), (3, 100, 0.6, 0.2)],
)
def test_intervals_cover(seeds: int, prompts: int, share: float, ties: float) -> None:
    """Several seeds: prompts differ in how often RLHF wins, and trainings do, a little."""
    generator, covered, logit = np.random.default_rng(1), 0, np.log(share / (1 - share))
    spread = (0.1, 0.8) if seeds > 1 else (0.0, 0.0)
    many = logit + np.hypot(*spread) * np.random.default_rng(0).normal(size=400_000)
    truth = (1 - ties) * expit(many).mean() + ties / 2
    for _ in range(TRIALS):
        logits = logit + spread[0] * generator.normal(size=(seeds, 1)) + spread[1] * generator.normal(size=(1, prompts))
        outcome = (generator.random((seeds, prompts)) < expit(logits)) * 1.0
        outcome[generator.random(outcome.shape) < ties] = 0.5
        low, high = win_rate(outcome).ci95
        covered += low <= truth <= high
    assert 0.93 <= covered / TRIALS <= 0.97
