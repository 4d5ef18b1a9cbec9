"""How well a reward model agrees with people on held-out pairs, from its margins: score(chosen) - score(rejected)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from rlhf.evaluation.intervals import wilson_interval

BINS = 10
"""Bins of equal width between the least confidence, 0.5, and 1."""

Evaluation = dict[str, float | list[dict[str, float]]]


def evaluate_margins(margins: Sequence[float]) -> Evaluation:
    """Accuracy with its interval, mean margin, loss and calibration over at least one pair.

    accuracy: share of pairs with a positive margin, a margin of 0 counting half; accuracy_low and accuracy_high: its
    95 % interval; loss: Bradley-Terry's, in nats per pair; calibration: see `calibrate`; calibration_error: mean over
    the pairs of the distance between their bin's expected and observed accuracy.
    """
    pairs = len(margins)
    right = sum(_correctness(margin) for margin in margins)
    low, high = wilson_interval(right, pairs)
    bins = calibrate(margins)
    return {
        "pairs": pairs,
        "accuracy": right / pairs,
        "accuracy_low": low,
        "accuracy_high": high,
        "mean_margin": fmean(margins),
        "loss": fmean(_softplus(-margin) for margin in margins),
        "calibration_error": sum(row["pairs"] * abs(row["expected"] - row["observed"]) for row in bins) / pairs,
        "calibration": bins,
    }


def calibrate(margins: Sequence[float]) -> list[dict[str, float]]:
    """Per bin of confidence that is not empty: {from, to, pairs, expected, observed}.

    The confidence of a pair is the probability sigmoid(|margin|) that the model gives to the answer it prefers;
    `expected` is its mean over the bin, `observed` the share of the bin's pairs in which people preferred it too.
    """
    binned: list[list[float]] = [[] for _ in range(BINS)]
    for margin in margins:
        position = (_sigmoid(abs(margin)) - 0.5) / 0.5 * BINS
        binned[min(int(position), BINS - 1)].append(margin)
    return [
        {
            "from": 0.5 + 0.5 * index / BINS,
            "to": 0.5 + 0.5 * (index + 1) / BINS,
            "pairs": len(content),
            "expected": fmean(_sigmoid(abs(margin)) for margin in content),
            "observed": fmean(_correctness(margin) for margin in content),
        }
        for index, content in enumerate(binned)
        if content
    ]


def _correctness(margin: float) -> float:
    return 0.5 if margin == 0 else float(margin > 0)


def _sigmoid(value: float) -> float:
    return math.exp(-_softplus(-value))


def _softplus(value: float) -> float:
    """log(1 + exp(value)) without overflow."""
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))
