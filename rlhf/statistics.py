"""Intervals and tests behind every figure of the report.

All draws are seeded; the same values and seed give the same numbers to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 10_000
RESAMPLES_AT_ONCE = 500
"""Resamples held in memory at once; a thousand values make 4 MB of them."""
CONFIDENCE = 0.95


class PairedDifference(NamedTuple):
    """Second minus first over pairs: its mean, the interval of the mean and how surprising it is without an effect."""

    mean: float
    ci95: tuple[float, float]
    p_value: float


def paired_difference(first: Sequence[float], second: Sequence[float], seed: int) -> PairedDifference:
    """Mean of `second - first` with its bootstrap interval and the p-value of the sign-flip permutation test."""
    assert len(first) == len(second), (len(first), len(second))
    difference = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    return PairedDifference(
        mean=float(difference.mean()),
        ci95=bootstrap_interval(difference.tolist(), seed),
        p_value=sign_flip_p_value(difference.tolist(), seed),
    )


def bootstrap_interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of `values`, bias-corrected and accelerated (BCa).

    BCa, not percentile: toxicity differences are mostly near zero with a long tail, and percentile intervals of a
    skewed mean miss more often on the side of the tail.  Where all values are equal the interval is that value.

    Source: Efron (1987), Better Bootstrap Confidence Intervals, as in scipy.stats.bootstrap.
    """
    if min(values) == max(values):
        return values[0], values[0]
    interval = stats.bootstrap(
        (np.asarray(values, dtype=np.float64),),
        np.mean,
        n_resamples=RESAMPLES,
        batch=RESAMPLES_AT_ONCE,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def sign_flip_p_value(differences: Sequence[float], seed: int) -> float:
    """Two-sided p-value of the paired permutation test: how often random signs give a mean as far from zero.

    Twice the smaller tail.  Exact where all sign patterns are fewer than the resamples; otherwise a tail counts the
    observed values too, (count + 1) / (resamples + 1), so that p is never zero.
    """
    values = np.asarray(differences, dtype=np.float64)
    return float(
        stats.permutation_test(
            (values, np.zeros_like(values)),
            lambda first, second, axis: np.mean(first - second, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=RESAMPLES - 1,
            batch=RESAMPLES_AT_ONCE,
            rng=np.random.default_rng(seed),
        ).pvalue
    )


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share, by Wilson's score method, which keeps its coverage near 0 and 1."""
    interval = stats.binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def sign_test_p_value(better: int, worse: int) -> float:
    """Exact two-sided p-value of `better` against `worse` without a preference; ties do not count.

    The published 30 better and 16 worse give 0.054.  Without any untied pair there is no evidence: 1.
    """
    if better + worse == 0:
        return 1.0
    return float(stats.binomtest(better, better + worse).pvalue)
