"""Intervals and tests against hand-worked cases, closed forms and simulated coverage."""

from __future__ import annotations

from math import comb, sqrt

import numpy as np
import pytest
from scipy import stats

from rlhf.evaluation.intervals import (
    bootstrap_interval,
    cluster_interval,
    krippendorff_alpha,
    paired_difference,
    required_sample_size,
    sign_flip_p_value,
    sign_test_p_value,
    sign_test_power,
    wilson_interval,
)


def test_bootstrap_of_many_normal_values_is_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 2000)
    low, high = bootstrap_interval(values.tolist(), seed=0)
    half_width = 1.96 * values.std() / sqrt(2000)
    assert low == pytest.approx(values.mean() - half_width, abs=0.006)
    assert high == pytest.approx(values.mean() + half_width, abs=0.006)


def test_bootstrap_interval_extends_towards_the_tail() -> None:
    """By the definition of BCa: bias z0 from the share below the mean, acceleration from the skewness."""
    values = np.random.default_rng(2).exponential(1.0, 30)
    low, high = bootstrap_interval(values.tolist(), seed=0)
    means = values[np.random.default_rng(5).integers(0, 30, (200_000, 30))].mean(1)
    z0 = stats.norm.ppf((means < values.mean()).mean())
    centered = values - values.mean()
    acceleration = (centered**3).sum() / (6 * (centered**2).sum() ** 1.5)
    levels = [
        stats.norm.cdf(z0 + (z0 + z) / (1 - acceleration * (z0 + z)))
        for z in (stats.norm.ppf(0.025), stats.norm.ppf(0.975))
    ]
    expected_low, expected_high = np.quantile(means, levels)
    assert low == pytest.approx(expected_low, abs=0.01)
    assert high == pytest.approx(expected_high, abs=0.02)
    assert high - values.mean() > values.mean() - low


def test_bootstrap_is_seeded_and_accepts_equal_values() -> None:
    values = np.random.default_rng(7).random(40).tolist()
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    assert bootstrap_interval([0.25] * 7, seed=3) == (0.25, 0.25)


def test_sign_flip_is_exact_on_few_values() -> None:
    """Of the 8 sign patterns of 1, 2, 4 only +++ and --- reach a sum of 7; only those with |sum| >= 5 reach 5."""
    assert sign_flip_p_value([1.0, 2.0, 4.0], seed=0) == pytest.approx(2 / 8)
    assert sign_flip_p_value([-1.0, 2.0, 4.0], seed=0) == pytest.approx(4 / 8)


def test_sign_flip_matches_the_t_test_on_many_values() -> None:
    values = np.random.default_rng(8).normal(0.12, 1.0, 300)
    assert sign_flip_p_value(values.tolist(), seed=0) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)


def test_sign_flip_agrees_with_scipy() -> None:
    """Exactly if all patterns are counted, otherwise up to sampling noise."""
    generator = np.random.default_rng(9)
    for size, shift, tolerance in ((2, 0.3, 1e-12), (9, 0.3, 1e-12), (13, 0.5, 1e-12), (60, 0.2, 0.02)):
        values = generator.normal(shift, 1.0, size).round(1)
        expected = stats.permutation_test(
            (values, np.zeros(size)),
            lambda first, second, axis: np.mean(first - second, axis=axis),
            permutation_type="samples",
            vectorized=True,
            rng=np.random.default_rng(10),
        ).pvalue
        assert sign_flip_p_value(values.tolist(), seed=0) == pytest.approx(expected, abs=tolerance)


def test_sign_flip_of_no_difference_is_one() -> None:
    assert sign_flip_p_value([0.0] * 50, seed=0) == 1.0
    assert sign_flip_p_value([0.1], seed=0) == 1.0


def test_sign_flip_has_the_nominal_false_positive_rate() -> None:
    """Without an effect p < 0.05 in 5 % of 400 experiments, within three standard errors."""
    generator = np.random.default_rng(11)
    rejected = sum(sign_flip_p_value(generator.normal(size=40).tolist(), seed=n) < 0.05 for n in range(400))
    assert rejected / 400 == pytest.approx(0.05, abs=3 * sqrt(0.05 * 0.95 / 400))


def test_paired_difference_is_second_minus_first() -> None:
    generator = np.random.default_rng(4)
    before = generator.random(400)
    after = before - 0.05 + generator.normal(0, 0.1, 400)
    difference = paired_difference(before.tolist(), after.tolist(), seed=0)
    assert difference.mean == pytest.approx(after.mean() - before.mean())
    assert difference.ci95[0] < difference.mean < difference.ci95[1] < 0
    assert difference.p_value == pytest.approx(2e-4)  # no resample reached it: twice 1 / 10,000


def test_paired_difference_finds_nothing_between_equals() -> None:
    generator = np.random.default_rng(6)
    before, after = generator.random((2, 400))
    difference = paired_difference(before.tolist(), after.tolist(), seed=0)
    assert difference.ci95[0] < 0 < difference.ci95[1]
    assert difference.p_value > 0.05


def test_wilson_interval_by_its_formula() -> None:
    """Wilson (1927): (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)."""
    z, n, share = 1.959964, 50, 0.8
    center, spread = share + z * z / (2 * n), z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = wilson_interval(40, 50)
    assert low == pytest.approx((center - spread) / (1 + z * z / n), abs=1e-6)
    assert high == pytest.approx((center + spread) / (1 + z * z / n), abs=1e-6)
    assert wilson_interval(0, 10)[0] == 0.0


def test_sign_test_of_the_published_preferences() -> None:
    by_hand = 2 * sum(comb(46, k) for k in range(30, 47)) / 2**46
    assert sign_test_p_value(30, 16) == pytest.approx(by_hand)
    assert round(by_hand, 3) == 0.054
    assert sign_test_p_value(16, 30) == pytest.approx(by_hand)
    assert sign_test_p_value(0, 0) == 1.0


@pytest.mark.slow
def test_intervals_of_skewed_differences_cover() -> None:
    """The true mean lies in 93 to 97 % of intervals of values that are mostly near zero with a long tail."""
    generator = np.random.default_rng(0)
    n, trials, covered = 200, 800, 0
    for trial in range(trials):
        difference = generator.beta(0.3, 1.7, n) - generator.beta(0.3, 2.7, n)
        low, high = bootstrap_interval(difference.tolist(), seed=trial)
        covered += low <= 0.15 - 0.1 <= high
    assert 0.93 <= covered / trials <= 0.97


@pytest.mark.slow
def test_intervals_of_paired_shares_cover() -> None:
    """The true difference of two shares, 0.30 and 0.38 of correlated pairs, lies in 93 to 97 % of intervals."""
    generator = np.random.default_rng(3)
    n, trials, covered = 300, 800, 0
    for trial in range(trials):
        before = generator.random(n)
        after = np.where(generator.random(n) < 0.5, before, generator.random(n))
        low, high = bootstrap_interval(((after < 0.38) * 1.0 - (before < 0.30)).tolist(), seed=trial)
        covered += low <= 0.08 <= high
    assert 0.93 <= covered / trials <= 0.97


def test_power_of_the_sign_test_by_hand() -> None:
    """Six untied pairs reject only at 6 : 0 or 0 : 6 (2 / 64 < 0.05); five never do (2 / 32)."""
    assert sign_test_power(6, 0.9, 0.1) == pytest.approx(0.9**6 + 0.1**6)
    assert sign_test_power(5, 0.9, 0.1) == 0.0
    with_ties = comb(7, 6) * 0.8**6 * 0.2 * (0.5**6 * 2) + 0.8**7 * (0.5**7 * 2)  # 6 or 7 of 7 untied, all alike
    assert sign_test_power(7, 0.4, 0.4) == pytest.approx(with_ties)


def test_power_of_the_sign_test_matches_a_simulation() -> None:
    generator = np.random.default_rng(3)
    counts, times = np.unique(generator.multinomial(100, [0.30, 0.54, 0.16], 4000), axis=0, return_counts=True)
    simulated = times @ [sign_test_p_value(int(wins), int(losses)) < 0.05 for wins, _, losses in counts] / 4000
    assert sign_test_power(100, 0.30, 0.16) == pytest.approx(simulated, abs=0.025)


def test_required_sample_size_for_the_published_difference() -> None:
    """Connor (1987) for McNemar's test: (1.96 sqrt(p) + 0.8416 sqrt(p - d^2))^2 / d^2 = 182; exact is a little more."""
    untied, difference = 0.46, 0.14
    normal = ((1.96 * sqrt(untied) + 0.8416 * sqrt(untied - difference**2)) / difference) ** 2
    pairs = required_sample_size(0.30, 0.16)
    assert pairs is not None
    assert normal < pairs < 1.1 * normal
    assert sign_test_power(pairs, 0.30, 0.16) >= 0.8
    assert required_sample_size(0.2, 0.2) is None
    assert required_sample_size(0.201, 0.2) is None


def test_alpha_of_the_example_by_krippendorff() -> None:
    """Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, example C: ordinal alpha 0.815."""
    none = None
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, none, none, none],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, none, 3],
        [none, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, none],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, none],
    ]
    assert krippendorff_alpha(table, (1, 2, 3, 4, 5)) == pytest.approx(0.815, abs=5e-4)


def test_alpha_of_two_values_by_hand() -> None:
    """Items ++, ++, --, +-: 5 of 8 values are +.  Observed 2 / 8, expected 2 * 5 * 3 / (8 * 7): 1 - (1/4) / (30/56)."""
    assert krippendorff_alpha([[1, 1, -1, 1], [1, 1, -1, -1]], (-1, 0, 1)) == pytest.approx(1 - 0.25 * 56 / 30)


def test_alpha_is_undefined_without_shared_items_or_variation() -> None:
    assert krippendorff_alpha([[1, None], [None, -1]], (-1, 0, 1)) is None
    assert krippendorff_alpha([[1, 1], [1, 1]], (-1, 0, 1)) is None
    assert krippendorff_alpha([[1, -1]], (-1, 0, 1)) is None


def test_cluster_interval_counts_clusters_not_answers() -> None:
    """Three equal answers to each of 200 items: the interval is that of 200 values, not of 600."""
    votes = np.random.default_rng(1).choice([-1.0, 0.0, 1.0], 200)
    low, high = cluster_interval([[vote] * 3 for vote in votes], seed=0)
    assert high - low == pytest.approx(2 * 1.96 * votes.std() / sqrt(200), rel=0.05)
    assert low < votes.mean() < high
