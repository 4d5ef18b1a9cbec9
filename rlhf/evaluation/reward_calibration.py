"""Reward model quality on validation pairs, from its margins score(chosen) - score(rejected)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from rlhf.evaluation.intervals import wilson_interval

BINS = 10
"""Bins of equal width between 0.5, the lowest confidence, and 1."""

Evaluation = dict[str, float | list[dict[str, float]]]


def evaluate_margins(margins: Sequence[float]) -> Evaluation:
    """Accuracy with its interval, mean margin, loss and calibration over at least one pair.

    accuracy: share of pairs with a positive margin; a margin of 0 counts half
    accuracy_low, accuracy_high: 95 % interval of the accuracy
    loss: Bradley-Terry loss, in nats per pair
    calibration: see `calibrate`
    calibration_error: mean over the pairs of |expected - observed| accuracy of their bin
    """
    pairs = len(margins)
    correct = sum(_correctness(margin) for margin in margins)
    low, high = wilson_interval(correct, pairs)
    bins = calibrate(margins)
    return {
        "pairs": pairs,
        "accuracy": correct / pairs,
        "accuracy_low": low,
        "accuracy_high": high,
        "mean_margin": fmean(margins),
        "loss": fmean(float(np.logaddexp(0.0, -margin)) for margin in margins),
        "calibration_error": sum(row["pairs"] * abs(row["expected"] - row["observed"]) for row in bins) / pairs,
        "calibration": bins,
    }


def calibrate(margins: Sequence[float]) -> list[dict[str, float]]:
    """One row per bin of confidence that is not empty: {from, to, pairs, expected, observed}.

    The confidence of a pair is sigmoid(|margin|), the probability that the model assigns to the response it prefers.
    `expected` is the mean confidence of the bin, `observed` the share of its pairs in which people prefer the same
    response.
    """
    binned: list[list[float]] = [[] for _ in range(BINS)]
    for margin in margins:
        position = (_confidence(margin) - 0.5) / 0.5 * BINS
        binned[min(int(position), BINS - 1)].append(margin)
    return [
        {
            "from": 0.5 + 0.5 * index / BINS,
            "to": 0.5 + 0.5 * (index + 1) / BINS,
            "pairs": len(content),
            "expected": fmean(_confidence(margin) for margin in content),
            "observed": fmean(_correctness(margin) for margin in content),
        }
        for index, content in enumerate(binned)
        if content
    ]


def _correctness(margin: float) -> float:
    return 0.5 if margin == 0 else float(margin > 0)


def _confidence(margin: float) -> float:
    """sigmoid(|margin|), without overflow."""
    return math.exp(-float(np.logaddexp(0.0, -abs(margin))))
