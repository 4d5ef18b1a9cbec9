"""Confidence intervals and significance tests of all metrics in the report.

All draws are seeded: the same values and seed give bit-identical results.
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
"""Resamples in memory at the same time; 4 MB for a thousand values."""
CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
POWER = 0.8
"""Probability of detecting a difference that studies are usually planned for."""
MAX_SAMPLE_SIZE = 16_384
"""Upper limit of the search for a sample size; nobody labels more."""
NEGLIGIBLE = 1e-13


class PairedDifference(NamedTuple):
    """Mean of second minus first over pairs, its 95 % interval, and the p-value of no difference."""

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
    skewed mean miss more often on the side of the tail.  If all values are equal, both ends are that value.

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
    """Two-sided p-value of the paired permutation test: how often random signs give a mean at least as far from zero.

    Twice the smaller tail, as in scipy.stats.permutation_test.  Exact if there are fewer sign patterns than resamples;
    otherwise a tail includes the observed values, (count + 1) / (resamples + 1), so that p is never zero.
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


def wilson_interval(successes: float, trials: float) -> tuple[float, float]:
    """95 % score interval of a share; its coverage is right near 0 and 1 too.  A tie may count as half a success.

    Source: Wilson, 1927, without continuity correction.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))  # exactly 0 or 1 despite rounding


def sign_test_p_value(wins: int, losses: int) -> float:
    """Exact two-sided p-value of `wins` against `losses` under no preference; ties do not count.

    The published 30 wins and 16 losses give 0.054.  Without any untied pair the p-value is 1.
    """
    if wins + losses == 0:
        return 1.0
    return float(stats.binomtest(wins, wins + losses).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the same order.

    Rejecting those below 0.05 keeps the probability of any false rejection at 5 %, whatever their correlation.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def sign_test_power(pairs: int, win: float, loss: float) -> float:
    """Power of the exact sign test: probability of p < 0.05 over `pairs` pairs, by the probabilities of win and loss.

    The number of untied pairs is binomial, and so is the number of wins among them.  The sum runs over both, without
    numbers of untied pairs that are less likely than NEGLIGIBLE.
    """
    fewest, most = stats.binom.ppf([NEGLIGIBLE, 1 - NEGLIGIBLE], pairs, win + loss)
    untied = np.arange(max(fewest, 0), most + 1)
    probability = stats.binom.pmf(untied, pairs, win + loss)
    critical = stats.binom.isf(SIGNIFICANCE / 2, untied, 0.5) + 1
    share = win / (win + loss)
    rejects = stats.binom.sf(critical - 1, untied, share) + stats.binom.cdf(untied - critical, untied, share)
    return float(probability @ rejects)


def required_sample_size(win: float, loss: float, power: float = POWER) -> int | None:
    """Fewest pairs with which the sign test detects the difference with `power`; None if above MAX_SAMPLE_SIZE.

    The search assumes that power grows with the number of pairs.  The power of an exact test dips slightly whenever its
    critical value steps up, so a few pairs fewer may be enough.
    """
    low, high = 1, 16
    while sign_test_power(high, win, loss) < power:
        low, high = high + 1, 2 * high
        if high > MAX_SAMPLE_SIZE:
            return None
    while low < high:
        middle = (low + high) // 2
        if sign_test_power(middle, win, loss) >= power:
            high = middle
        else:
            low = middle + 1
    return low


def krippendorff_alpha(ratings: Sequence[Sequence[float | None]], values: Sequence[float]) -> float | None:
    """Krippendorff's alpha of annotators (rows) over items (columns) on ordered `values`; None if it is undefined.

    1 is full agreement, 0 is chance.  It is undefined if no item was rated by two annotators, or if all ratings are the
    same.

    Source: Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, by the package `krippendorff`.
    """
    table = np.array([[np.nan if rating is None else rating for rating in row] for row in ratings], dtype=np.float64)
    shared = table[:, (~np.isnan(table)).sum(axis=0) >= 2]
    if len(np.unique(shared[~np.isnan(shared)])) < 2:
        return None
    return float(krippendorff.alpha(shared, level_of_measurement="ordinal", value_domain=list(values)))


def cluster_interval(clusters: Sequence[Sequence[float]], seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of all values, resampling clusters.

    Different annotators' answers to one pair are correlated, so pairs are resampled together with all their answers.
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
    """All rows of zeros and ones, in one array."""
    yield np.arange(2**length)[:, None] >> np.arange(length) & 1


def _random_patterns(length: int, seed: int) -> Iterator[np.ndarray]:
    """RESAMPLES - 1 random rows of zeros and ones, in arrays of at most RESAMPLES_AT_ONCE rows."""
    generator = np.random.default_rng(seed)
    for start in range(0, RESAMPLES - 1, RESAMPLES_AT_ONCE):
        rows = min(RESAMPLES_AT_ONCE, RESAMPLES - 1 - start)
        yield generator.integers(0, 2, (rows, length), dtype=np.int8)
