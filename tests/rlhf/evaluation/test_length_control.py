"""Differences at equal length: pure length gains disappear, true gains stay, and intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from rlhf.evaluation.length_control import difference_at_equal_length, win_rate_at_equal_length
from rlhf.evaluation.seed_intervals import Array, mean_estimate

TRIALS = 1000


def outcomes(probability: Array, generator: np.random.Generator) -> Array:
    drawn: Array = np.where(generator.random(probability.shape) < probability, 1.0, 0.0)
    return drawn


def test_the_fitted_line_is_read_at_zero() -> None:
    """Gains of 2 + 0.5 x difference in tokens, without noise."""
    tokens = np.array([[-3.0, 0.0, 4.0, 10.0, 12.0]])
    estimate = difference_at_equal_length(2 + 0.5 * tokens, tokens, seed=0)
    assert estimate.mean == pytest.approx(2.0)
    assert estimate.ci95 == pytest.approx((2.0, 2.0))


@pytest.mark.parametrize("change", ["cut to a third", "padded by a half", "padded to 60 tokens", "padded by 20 tokens"])
def test_a_pure_length_gain_disappears(change: str) -> None:
    """The same responses, shorter or longer, and a reward that likes that: 0.05 a token, and noise.

    Without length control every draw looks like a clear gain; with it, intervals include zero as often as they should.
    """
    generator, rewards, rates = np.random.default_rng(1), 0, 0
    for draw in range(200):
        tokens = generator.integers(10, 60, 100)
        changed = {
            "cut to a third": -(tokens // 3 * 2),
            "padded by a half": tokens // 2,
            "padded to 60 tokens": 60 - tokens,
            "padded by 20 tokens": np.full(100, 20),
        }[change].astype(float)[None]
        gain = (-0.05 if change.startswith("cut") else 0.05) * changed + generator.normal(0, 0.1, (1, 100))
        assert gain.mean() > 10 * gain.std() / 10
        low, high = difference_at_equal_length(gain, changed, draw).ci95
        rewards += low <= 0 <= high
        low, high = win_rate_at_equal_length(0.5 + 0.5 * np.sign(gain), changed).ci95
        rates += low <= 0.5 <= high
    assert rewards >= 0.92 * 200
    assert rates >= 0.92 * 200


def test_a_pure_length_gain_without_noise_is_exactly_zero() -> None:
    tokens = np.random.default_rng(2).integers(1, 40, (1, 50)).astype(float)
    low, high = difference_at_equal_length(0.1 * tokens, tokens, seed=0).ci95
    assert low <= 0 <= high


def test_a_true_gain_is_found() -> None:
    """0.4 better at any length, while responses also become 8 tokens longer."""
    generator = np.random.default_rng(3)
    tokens = generator.normal(8, 10, (1, 100)).round()
    gain = 0.4 + 0.03 * tokens + generator.normal(0, 0.8, (1, 100))
    estimate = difference_at_equal_length(gain, tokens, seed=0)
    assert estimate.ci95[0] > 0
    assert estimate.p_value < 0.01
    rate = win_rate_at_equal_length(0.5 + 0.5 * np.sign(gain), tokens)
    assert rate.ci95[0] > 0.5
    assert rate.p_value < 0.05


def test_with_equal_lengths_nothing_is_corrected() -> None:
    gain = np.random.default_rng(4).normal(0.2, 1.0, (1, 40))
    assert difference_at_equal_length(gain, np.zeros((1, 40)), seed=1) == mean_estimate(gain, seed=1)


def test_win_rate_without_length_is_the_share_of_wins_shrunk_by_half_a_case() -> None:
    """Firth's penalty for an intercept alone adds half a win and half a loss: (30 + 0.5) / (40 + 1)."""
    outcome = np.array([[1.0] * 30 + [0.0] * 10])
    assert win_rate_at_equal_length(outcome, np.zeros((1, 40))).mean == pytest.approx(30.5 / 41)


def test_a_judge_that_always_agrees_gives_no_certainty() -> None:
    """Ten wins of ten: the interval of a share is 0.69 (Clopper-Pearson) to 1."""
    generator = np.random.default_rng(5)
    rate = win_rate_at_equal_length(np.ones((1, 10)), generator.normal(0, 5, (1, 10)))
    assert 0.45 < rate.ci95[0] < 0.75
    assert rate.ci95[1] < 1
    tie = win_rate_at_equal_length(np.full((1, 10), 0.5), np.zeros((1, 10)))
    assert (tie.mean, tie.p_value) == (0.5, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "prompts"), [(1, 100), (1, 40), (3, 100)])
def test_intervals_of_the_difference_cover(seeds: int, prompts: int) -> None:
    """Longer responses vary more, and prompts differ."""
    generator, covered = np.random.default_rng(6), 0
    for trial in range(TRIALS):
        tokens = generator.normal(6, 8, (seeds, prompts)).round()
        noise = generator.normal(0, 1, (1, prompts)) + generator.normal(0, 0.7, (seeds, prompts)) * (
            1 + 0.05 * np.abs(tokens)
        )
        low, high = difference_at_equal_length(0.5 + 0.05 * tokens + noise, tokens, trial).ci95
        covered += low <= 0.5 <= high
    assert 0.93 <= covered / TRIALS <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "logit", "ties"), [(1, 0.0, 0.0), (1, 0.6, 0.0), (1, 0.3, 0.3), (3, 1.5, 0.0)])
def test_intervals_of_the_win_rate_cover(seeds: int, logit: float, ties: float) -> None:
    generator, covered = np.random.default_rng(7), 0
    truth = (1 - ties) * expit(logit) + ties / 2
    for _ in range(TRIALS):
        tokens = generator.normal(4, 8, (seeds, 100)).round()
        outcome = outcomes(expit(logit + np.tanh(tokens / tokens.std())), generator)
        outcome[generator.random(outcome.shape) < ties] = 0.5
        low, high = win_rate_at_equal_length(outcome, tokens).ci95
        covered += low <= truth <= high
    assert 0.93 <= covered / TRIALS <= 0.975
