"""Intervals and tests behind every figure of the report.

All draws are seeded; the same values and seed give the same numbers to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import krippendorff
import numpy as np
from scipy import stats

RESAMPLES = 10_000
RESAMPLES_AT_ONCE = 500
"""Resamples held in memory at once; a thousand values make 4 MB of them."""
CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
POWER = 0.8
"""Chance to find a difference that a study is usually planned for."""
MOST_ITEMS = 16_384
"""Where the search for a number of items ends: more than anybody compares."""
NEGLIGIBLE = 1e-13


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

    Twice the smaller tail, as in scipy.stats.permutation_test.  Exact where all sign patterns are fewer than the
    resamples; otherwise a tail counts the observed values too, (count + 1) / (resamples + 1), so that p is never zero.
    """
    values = np.asarray(differences, dtype=np.float64)
    total, rounding = values.sum(), NEGLIGIBLE * np.abs(values).sum()
    exact = 2 ** len(values) < RESAMPLES
    above = below = drawn = 0
    for flips in _all_patterns(len(values)) if exact else _random_patterns(len(values), seed):
        sums = total - 2 * (flips @ values)
        above += int((sums >= total - rounding).sum())
        below += int((sums <= total + rounding).sum())
        drawn += len(flips)
    observed = 0 if exact else 1
    return min(1.0, 2 * (min(above, below) + observed) / (drawn + observed))


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """95 % score interval of a share, which keeps its coverage near 0 and 1; a tie may count as half a success.

    Source: Wilson, 1927, without continuity correction.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))  # 0 and 1 whatever the rounding


def sign_test_p_value(better: int, worse: int) -> float:
    """Exact two-sided p-value of `better` against `worse` without a preference; ties do not count.

    The published 30 better and 16 worse give 0.054.  Without any untied pair there is no evidence: 1.
    """
    if better + worse == 0:
        return 1.0
    return float(stats.binomtest(better, better + worse).pvalue)


def sign_test_power(items: int, better: float, worse: float) -> float:
    """Chance that the exact sign test over `items` pairs finds p < 0.05, where a pair is so likely better or worse.

    The untied pairs are binomial, and of them the better ones; both are summed over, but for numbers of untied pairs
    that are less likely than NEGLIGIBLE.
    """
    fewest, most = stats.binom.ppf([NEGLIGIBLE, 1 - NEGLIGIBLE], items, better + worse)
    untied = np.arange(max(fewest, 0), most + 1)
    chance = stats.binom.pmf(untied, items, better + worse)
    critical = stats.binom.isf(SIGNIFICANCE / 2, untied, 0.5) + 1
    share = better / (better + worse)
    rejects = stats.binom.sf(critical - 1, untied, share) + stats.binom.cdf(untied - critical, untied, share)
    return float(chance @ rejects)


def items_needed(better: float, worse: float, power: float = POWER) -> int | None:
    """Fewest pairs over which the sign test finds the difference with `power`; None beyond MOST_ITEMS.

    The power of an exact test dips a little where a whole step of its critical value is due, so a few items less may
    do by luck; the search takes the power to grow.
    """
    low, high = 1, 16
    while sign_test_power(high, better, worse) < power:
        low, high = high + 1, 2 * high
        if high > MOST_ITEMS:
            return None
    while low < high:
        middle = (low + high) // 2
        if sign_test_power(middle, better, worse) >= power:
            high = middle
        else:
            low = middle + 1
    return low


def krippendorff_alpha(ratings: Sequence[Sequence[float | None]], values: Sequence[float]) -> float | None:
    """Agreement of annotators (rows) over items (columns) on ordered `values`; None where it is not defined.

    1 is full agreement, 0 what chance gives.  It is not defined without an item that two annotators rated, or where
    nobody ever says anything but one value.

    Source: Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, by the package `krippendorff`.
    """
    table = np.array([[np.nan if rating is None else rating for rating in row] for row in ratings], dtype=np.float64)
    shared = table[:, (~np.isnan(table)).sum(axis=0) >= 2]
    if len(np.unique(shared[~np.isnan(shared)])) < 2:
        return None
    return float(krippendorff.alpha(shared, level_of_measurement="ordinal", value_domain=list(values)))


def cluster_interval(clusters: Sequence[Sequence[float]], seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of all values, drawn by whole clusters.

    Answers of several annotators to one item are alike, so the item, with all of its answers, is what is drawn.
    """
    sums = np.array([sum(cluster) for cluster in clusters], dtype=np.float64)
    sizes = np.array([len(cluster) for cluster in clusters], dtype=np.float64)
    generator = np.random.default_rng(seed)
    means: list[float] = []
    for _ in range(0, RESAMPLES, RESAMPLES_AT_ONCE):
        drawn = generator.integers(0, len(clusters), (RESAMPLES_AT_ONCE, len(clusters)))
        means.extend((sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)).tolist())
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _all_patterns(length: int) -> Iterator[np.ndarray]:
    """Every row of zeros and ones, at once."""
    yield np.arange(2**length)[:, None] >> np.arange(length) & 1


def _random_patterns(length: int, seed: int) -> Iterator[np.ndarray]:
    """One row of zeros and ones fewer than RESAMPLES, as many at once as memory should hold."""
    generator = np.random.default_rng(seed)
    for start in range(0, RESAMPLES - 1, RESAMPLES_AT_ONCE):
        rows = min(RESAMPLES_AT_ONCE, RESAMPLES - 1 - start)
        yield generator.integers(0, 2, (rows, length), dtype=np.int8)
