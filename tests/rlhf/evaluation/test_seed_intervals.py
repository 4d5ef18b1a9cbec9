"""Intervals over seeds and prompts against hand-worked cases and simulated trainings."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from scipy import stats

from rlhf.evaluation.intervals import paired_difference
from rlhf.evaluation.seed_intervals import (
    half_width_of_mean,
    mean_estimate,
    p_value_of_mean,
    share_estimate,
    two_way_half_width,
)

TRIALS = 1500


def test_one_training_has_the_interval_over_prompts() -> None:
    values = np.random.default_rng(1).normal(0.3, 1.0, (1, 60))
    assert mean_estimate(values, seed=3) == paired_difference([0.0] * 60, values[0].tolist(), seed=3)


def test_two_way_interval_by_hand() -> None:
    """Three seeds that add 0, 3, 6 to four prompts at 0, 2, 4, 6; no rest.

    MS of seeds: 4 x var(0, 3, 6) = 36; MS of prompts: 3 x var(0, 2, 4, 6) = 20; both over 12 cells.
    """
    values = np.array([[seed + prompt for prompt in (0.0, 2.0, 4.0, 6.0)] for seed in (0.0, 3.0, 6.0)])
    expected = sqrt((stats.t.ppf(0.975, 2) ** 2 * 36 + stats.t.ppf(0.975, 3) ** 2 * 20) / 12)
    assert two_way_half_width(values, 0.95) == pytest.approx(expected)


def test_equal_trainings_add_nothing() -> None:
    """If all trainings give the same values, only prompts vary: the t interval of one of them."""
    values = np.random.default_rng(2).normal(0.0, 1.0, 50)
    assert two_way_half_width(np.stack([values] * 3), 0.95) == pytest.approx(half_width_of_mean(values[None], 0.95))


def test_p_value_of_one_training_is_that_of_the_t_test() -> None:
    values = np.random.default_rng(3).normal(0.3, 1.0, 40)
    assert p_value_of_mean(values[None], 0.0) == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, rel=1e-6)
    assert p_value_of_mean(values[None], float(values.mean())) == 1.0


def test_p_value_and_interval_of_several_trainings_agree() -> None:
    values = np.random.default_rng(4).normal(0.2, 1.0, (3, 40))
    low = mean_estimate(values, seed=0).ci95[0]
    assert p_value_of_mean(values, low) == pytest.approx(0.05, rel=1e-6)


def test_share_of_one_training_is_the_mean_of_the_chosen() -> None:
    values = np.array([[1.0, 5.0, 3.0, 9.0]])
    chosen = np.array([[True, False, True, True]])
    estimate = share_estimate(values, chosen, seed=0)
    assert estimate is not None
    assert estimate == mean_estimate(np.array([[1.0, 3.0, 9.0]]), seed=0)
    assert share_estimate(values, np.zeros((1, 4), dtype=bool), seed=0) is None


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "of_seed"), [(3, 0.14), (3, 0.3), (5, 0.14), (5, 0.0)])
def test_intervals_over_simulated_trainings_cover(seeds: int, of_seed: float) -> None:
    """Three trainings of one recipe differed by 0.14 (SD) in mean reward, and responses to prompts by about 1."""
    generator, covered = np.random.default_rng(5), 0
    for trial in range(TRIALS):
        effects = of_seed * generator.normal(size=(seeds, 1)) + 0.7 * generator.normal(size=(1, 100))
        low, high = mean_estimate(0.4 + effects + 0.7 * generator.normal(size=(seeds, 100)), trial).ci95
        covered += low <= 0.4 <= high
    assert 0.93 <= covered / TRIALS <= 0.97


@pytest.mark.slow
def test_an_interval_over_prompts_alone_would_not_cover() -> None:
    """The same trainings, judged by one of them: its interval leaves out how trainings differ."""
    generator, covered = np.random.default_rng(6), 0
    for _ in range(TRIALS):
        effects = 0.3 * generator.normal() + generator.normal(size=(1, 100))
        covered += abs(effects.mean()) <= half_width_of_mean(effects, 0.95)
    assert covered / TRIALS < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_of_chosen_prompts_cover(seeds: int) -> None:
    """A share of the prompts, another one in every training, as those to which both responses ended."""
    generator, covered = np.random.default_rng(7), 0
    for trial in range(TRIALS):
        effects = 0.1 * generator.normal(size=(seeds, 1)) * (seeds > 1) + 0.7 * generator.normal(size=(1, 100))
        values = 0.4 + effects + 0.7 * generator.normal(size=(seeds, 100))
        estimate = share_estimate(values, generator.random((seeds, 100)) < 0.6, trial)
        assert estimate is not None
        covered += estimate.ci95[0] <= 0.4 <= estimate.ci95[1]
    assert 0.93 <= covered / TRIALS <= 0.97
