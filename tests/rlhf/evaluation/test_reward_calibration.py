"""Reward model metrics against scipy and values worked out by hand."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binomtest

from rlhf.evaluation.intervals import wilson_interval
from rlhf.evaluation.reward_calibration import calibrate, evaluate_margins


@pytest.mark.parametrize(("correct", "pairs"), [(0, 7), (7, 7), (61, 96), (1, 1)])
def test_wilson_interval_matches_scipy(correct: int, pairs: int) -> None:
    expected = binomtest(correct, pairs).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, pairs) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_margin_of_zero_counts_half() -> None:
    evaluation = evaluate_margins([2.0, 1.0, 0.0, -3.0])
    assert evaluation["accuracy"] == 2.5 / 4
    assert evaluation["mean_margin"] == 0.0
    assert evaluation["pairs"] == 4


def test_loss_is_the_bradley_terry_loss() -> None:
    # -log sigmoid(log 3) = log(4/3); -log sigmoid(-log 3) = log 4
    evaluation = evaluate_margins([math.log(3), -math.log(3)])
    assert evaluation["loss"] == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, abs=1e-12)


def test_calibration_groups_pairs_by_confidence() -> None:
    # confidence 0.76 for four pairs, three of them correct; confidence 0.92 for one pair, wrong
    margins = [*[math.log(0.76 / 0.24)] * 3, -math.log(0.76 / 0.24), -math.log(0.92 / 0.08)]
    low, high = calibrate(margins)
    assert low == pytest.approx({"from": 0.75, "to": 0.8, "pairs": 4, "expected": 0.76, "observed": 0.75})
    assert high == pytest.approx({"from": 0.9, "to": 0.95, "pairs": 1, "expected": 0.92, "observed": 0.0})
    assert evaluate_margins(margins)["calibration_error"] == pytest.approx((4 * 0.01 + 0.92) / 5)


def test_a_model_without_preferences_is_calibrated_at_chance() -> None:
    evaluation = evaluate_margins([0.0] * 10)
    assert evaluation["accuracy"] == 0.5
    assert evaluation["loss"] == pytest.approx(math.log(2))
    assert evaluation["calibration"] == [{"from": 0.5, "to": 0.55, "pairs": 10, "expected": 0.5, "observed": 0.5}]


def test_huge_margins_do_not_overflow() -> None:
    evaluation = evaluate_margins([1e4, -1e4])
    assert evaluation["loss"] == 5e3
    assert evaluation["calibration"] == [{"from": 0.95, "to": 1.0, "pairs": 2, "expected": 1.0, "observed": 0.5}]
