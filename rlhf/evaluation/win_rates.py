"""Win rates of the RLHF model over the SFT model, by any judge.

S seeds, N prompts.  Outcomes are 1 for a win, 0 for a loss and 0.5 for a tie, so a tie counts as half a win.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from rlhf.evaluation.intervals import CONFIDENCE, sign_test_p_value, wilson_interval
from rlhf.evaluation.length_control import Rate, win_rate_at_equal_length
from rlhf.evaluation.seed_intervals import Array, half_width_of_mean, p_value_of_mean
from rlhf.results.judges import JudgeKind, JudgeResults, WinRate


def outcomes(rlhf_SN: Array, sft_N: Array) -> Array:
    """Outcomes [S, N] of comparing scores; equal scores are a tie."""
    return 0.5 + 0.5 * np.sign(rlhf_SN - sft_N)


def judge_results(name: str, kind: JudgeKind, outcome_SN: Array, length_SN: Array) -> JudgeResults:
    """Wins, ties and losses over all seeds and prompts, the win rate, and the win rate at equal length.

    `length_SN` is the difference in length, in tokens.
    """
    rate, at_equal_length = win_rate(outcome_SN), win_rate_at_equal_length(outcome_SN, length_SN)
    return JudgeResults(
        name=name,
        kind=kind,
        wins=int((outcome_SN == 1).sum()),
        ties=int((outcome_SN == 0.5).sum()),
        losses=int((outcome_SN == 0).sum()),
        win_rate=WinRate(**rate._asdict()),
        length_controlled_win_rate=WinRate(**at_equal_length._asdict()),
    )


def win_rate(outcome_SN: Array) -> Rate:
    """Mean outcome with its interval, by Wilson's formula for the effective number of prompts, and its p-value.

    That number is the one with which a binomial share would have the variance that is observed: larger than N if there
    are ties, smaller than S x N if the outcomes of different seeds are related.

    Source: Dean and Pagano (2015), Evaluating confidence interval methods for binomial proportions in
    clustered surveys.
    """
    mean, cells, p_value = float(outcome_SN.mean()), outcome_SN.size, preference_p_value(outcome_SN)
    half_width = half_width_of_mean(outcome_SN, CONFIDENCE)
    if half_width == 0:
        return Rate(mean, (mean, mean) if mean == 0.5 else wilson_interval(mean * cells, cells), p_value)
    standard_error = half_width / stats.norm.ppf((1 + CONFIDENCE) / 2)
    effective = mean * (1 - mean) / standard_error**2
    return Rate(mean, wilson_interval(mean * effective, effective), p_value)


def preference_p_value(outcome_SN: Array) -> float:
    """Two-sided p-value of no preference: exact sign test without ties, or the two-way interval with several seeds."""
    if len(outcome_SN) > 1:
        return p_value_of_mean(outcome_SN, 0.5)
    return sign_test_p_value(int((outcome_SN == 1).sum()), int((outcome_SN == 0).sum()))
