"""Differences at equal length: what is left of a gain in reward or preference if responses are not longer or shorter.

S seeds, N prompts.  Both estimates fit how the gain depends on the difference in length, and report the fit at a
difference of zero.

Source: Dubois, Galambosi, Liang and Hashimoto (2024), Length-Controlled AlpacaEval (arXiv 2404.04475).
Differs: there is no term for the difficulty of a prompt, which takes many models to estimate.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from rlhf.evaluation.intervals import CONFIDENCE, PairedDifference
from rlhf.evaluation.seed_intervals import Array, half_width_of_mean, mean_estimate, pseudo_value_estimate

FEWEST = 3
"""Fewest responses from which a line and its error can be estimated."""
ITERATIONS = 200
"""Maximum number of Newton steps; a fit takes about ten."""
CONVERGED = 1e-10
BINOMIAL_SHARE = 0.9
"""Smallest interval, as a share of that by the binomial variance: residuals say nothing if every outcome is a win."""


class Rate(NamedTuple):
    """A rate, its 95 % interval and the two-sided p-value of a rate of one half."""

    mean: float
    ci95: tuple[float, float]
    p_value: float


def difference_at_equal_length(value_SN: Array, length_SN: Array, seed: int) -> PairedDifference:
    """Mean difference in reward at a difference in length of zero, by linear regression.

    `length_SN` is the difference in length, in tokens.  The interval is robust to unequal variances (HC3).  If all
    responses changed by the same length, or there are fewer than FEWEST, length and model cannot be told apart: the
    interval then reaches from zero to the far end of the interval of the uncorrected mean.
    """
    if np.ptp(length_SN) == 0 or length_SN.size < FEWEST:
        uncorrected = mean_estimate(value_SN, seed)
        if not length_SN.any():
            return uncorrected
        low, high = uncorrected.ci95
        return PairedDifference(uncorrected.mean, (min(0.0, low), max(0.0, high)), 1.0)
    x_M2 = np.column_stack([np.ones(length_SN.size), length_SN.ravel()])
    inverse_22 = np.linalg.inv(x_M2.T @ x_M2)
    coefficient_2 = inverse_22 @ (x_M2.T @ value_SN.ravel())
    leverage_M = ((x_M2 @ inverse_22) * x_M2).sum(1)
    residual_M = (value_SN.ravel() - x_M2 @ coefficient_2) / (1 - leverage_M).clip(min=1e-9)
    influence_M = length_SN.size * (x_M2 @ inverse_22)[:, 0] * residual_M
    rounding = 1e-12 * np.abs(value_SN).max()
    intercept = 0.0 if abs(coefficient_2[0]) < rounding else coefficient_2[0]
    return pseudo_value_estimate(intercept + _centered(influence_M.reshape(value_SN.shape)))


def win_rate_at_equal_length(outcome_SN: Array, length_SN: Array) -> Rate:
    """Win rate at a difference in length of zero, by logistic regression on tanh(difference / its standard deviation).

    Outcomes are 1 for a win, 0 for a loss, 0.5 for a tie.  If all responses changed by the same length, the interval
    includes one half, since length and model cannot be told apart.  Firth's penalty keeps the fit finite if length
    alone, or nothing, separates wins from losses.

    Source of the penalty: Firth (1993), Bias reduction of maximum likelihood estimates.
    """
    varies = np.ptp(length_SN) > 0
    tanh_M = np.tanh(length_SN.ravel() / (length_SN.std() if varies else 1.0))
    x_MK = np.column_stack([np.ones(length_SN.size), *([tanh_M] if varies else [])])
    coefficient_K, inverse_KK, probability_M = _fit_logistic(x_MK, outcome_SN.ravel())
    influence_M = length_SN.size * (x_MK @ inverse_KK)[:, 0] * (outcome_SN.ravel() - probability_M)
    logit = float(coefficient_K[0])
    half_width = half_width_of_mean(_centered(influence_M.reshape(outcome_SN.shape)), CONFIDENCE)
    untied = float((outcome_SN != 0.5).mean())  # ties carry no binomial noise
    binomial = special.ndtri((1 + CONFIDENCE) / 2) * math.sqrt(inverse_KK[0, 0] * untied)
    half_width = max(half_width, BINOMIAL_SHARE * binomial)
    low, high = special.expit([logit - half_width, logit + half_width]).tolist()
    mean = float(special.expit(logit))
    if not varies and length_SN.flat[0] != 0:
        return Rate(mean, (min(0.5, low), max(0.5, high)), 1.0)
    normal = special.ndtri((1 + CONFIDENCE) / 2)
    p_value = 2 * special.ndtr(-abs(logit) / half_width * normal) if half_width > 0 else 1.0
    return Rate(mean, (low, high), float(p_value))


def _fit_logistic(x_MK: Array, outcome_M: Array) -> tuple[Array, Array, Array]:
    """Coefficients of the penalized fit, inverse of the information, and probabilities."""
    coefficient_K = np.zeros(x_MK.shape[1])
    for _ in range(ITERATIONS):
        probability_M = special.expit(x_MK @ coefficient_K)
        weight_M = probability_M * (1 - probability_M)
        inverse_KK = np.linalg.inv(x_MK.T @ (weight_M[:, None] * x_MK))
        leverage_M = weight_M * ((x_MK @ inverse_KK) * x_MK).sum(1)
        score_K = x_MK.T @ (outcome_M - probability_M + leverage_M * (0.5 - probability_M))
        step_K = inverse_KK @ score_K
        coefficient_K = coefficient_K + step_K / max(1.0, np.abs(step_K).max())
        if np.abs(step_K).max() < CONVERGED:
            break
    return coefficient_K, inverse_KK, probability_M


def _centered(value_SN: Array) -> Array:
    centered_SN: Array = value_SN - value_SN.mean()
    return centered_SN
