"""Intervals of a mean over prompts and, if PPO was trained several times, over its training seeds.

S seeds, N prompts.  Values are paired differences, or pseudo-values: an estimate plus the influence of each prompt and
seed on it, so that the interval of any smooth estimate is that of a mean.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from rlhf.evaluation.intervals import CONFIDENCE, PairedDifference, paired_difference

Array = NDArray[np.float64]

SMALLEST_P_VALUE = 1e-12
"""Smallest p-value that is searched for."""


def mean_estimate(value_SN: Array, seed: int) -> PairedDifference:
    """Mean of all values, its 95 % interval and the two-sided p-value of a mean of zero.

    One seed: bootstrap interval and sign-flip test over prompts, as in `paired_difference`.  Several: see
    `two_way_half_width`.
    """
    if len(value_SN) == 1:
        return paired_difference([0.0] * value_SN.shape[1], value_SN[0].tolist(), seed)
    return pseudo_value_estimate(value_SN)


def share_estimate(value_SN: Array, chosen_SN: NDArray[np.bool_], seed: int) -> PairedDifference | None:
    """Mean of the chosen values, with interval and p-value; None if none are chosen.

    Over several seeds the chosen prompts differ, so this is a ratio of two means; its pseudo-values are
    `mean + chosen / share chosen x (value - mean)`.
    """
    if not chosen_SN.any():
        return None
    if len(value_SN) == 1:
        return mean_estimate(value_SN[:, chosen_SN[0]], seed)
    mean = value_SN[chosen_SN].mean()
    return pseudo_value_estimate(mean + np.where(chosen_SN, value_SN - mean, 0.0) / chosen_SN.mean())


def pseudo_value_estimate(value_SN: Array) -> PairedDifference:
    """Mean of pseudo-values with its t interval over prompts, or over seeds and prompts if there are several seeds."""
    mean = float(value_SN.mean())
    half_width = half_width_of_mean(value_SN, CONFIDENCE)
    return PairedDifference(mean, (mean - half_width, mean + half_width), p_value_of_mean(value_SN, 0.0))


def half_width_of_mean(value_SN: Array, confidence: float) -> float:
    """Half the width of the interval of the mean of all values: t over prompts, or two-way with several seeds."""
    if len(value_SN) > 1:
        return two_way_half_width(value_SN, confidence)
    prompts = value_SN.shape[1]
    if prompts == 1:
        return 0.0
    quantile = stats.t.ppf((1 + confidence) / 2, prompts - 1)
    return float(quantile * value_SN.std(ddof=1) / math.sqrt(prompts))


def p_value_of_mean(value_SN: Array, mean: float) -> float:
    """Two-sided p-value: 1 minus the confidence at which the interval of the mean just reaches `mean`."""
    distance = abs(float(value_SN.mean()) - mean)

    def excess(p_value: float) -> float:
        return half_width_of_mean(value_SN, 1 - p_value) - distance

    if excess(1.0 - 1e-9) >= 0:
        return 1.0
    return SMALLEST_P_VALUE if excess(SMALLEST_P_VALUE) <= 0 else float(optimize.brentq(excess, SMALLEST_P_VALUE, 1.0))


def two_way_half_width(value_SN: Array, confidence: float) -> float:
    """Half the width of the interval of the mean if both seeds and prompts are a sample of many.

    Model: value = mean + effect of the seed + effect of the prompt + rest.  The variance of the mean has a part of the
    seeds, (MS_seeds - MS_rest) / SN with S - 1 degrees of freedom, and a part of the prompts, MS_prompts / SN with
    N - 1.  The squared half-widths of both parts add up.  With three seeds, the first part is wide, as it should be.

    Source: analysis of variance with two crossed random factors; half-widths are combined as by Zou and Donner (2008),
    Construction of confidence limits about effect measures.
    """
    seeds, prompts = value_SN.shape
    mean_S1, mean_1N = value_SN.mean(1, keepdims=True), value_SN.mean(0, keepdims=True)
    rest_SN = value_SN - mean_S1 - mean_1N + value_SN.mean()
    ms_seeds = prompts * mean_S1.var(ddof=1)
    ms_prompts = seeds * mean_1N.var(ddof=1)
    ms_rest = (rest_SN**2).sum() / ((seeds - 1) * (prompts - 1))
    of_seeds = stats.t.ppf((1 + confidence) / 2, seeds - 1) ** 2 * max(0.0, ms_seeds - ms_rest)
    of_prompts = stats.t.ppf((1 + confidence) / 2, prompts - 1) ** 2 * ms_prompts
    return math.sqrt((of_seeds + of_prompts) / (seeds * prompts))
