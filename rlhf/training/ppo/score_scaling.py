"""Scores as PPO maximizes them: penalty, clipping, running scale.  B rollouts, N values of this rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.runtime.distributed import all_reduce_sum

MIN_RELATIVE_DEVIATION = 1e-6
"""A standard deviation below this share of the mean is rounding error: all values are equal."""


def penalize_cut(score_B: Tensor, ended: Sequence[bool], penalty: float) -> Tensor:
    """Subtract `penalty` from the scores of responses that did not end by themselves.

    The reward model cannot see the cut: it scores every response as if it had ended.  Source: TRL,
    `PPOConfig.missing_eos_penalty`.  summarize_from_feedback_details@ee77a9a gives such responses a constant score
    instead.
    """
    return score_B - penalty * (~torch.tensor(ended, device=score_B.device)).to(score_B.dtype)


def scale_scores(score_B: Tensor, statistics: RunningStatistics, *, clip: float, scale: bool) -> Tensor:
    """Clip scores to plus or minus `clip`, then divide them by the running deviation, which includes these scores."""
    score_B = score_B.clamp(-clip, clip)
    statistics.update(score_B)
    return score_B / statistics.scale if scale else score_B


@dataclass
class RunningStatistics:
    """Mean and standard deviation of all values so far, of all ranks.

    Source: Chan, Golub and LeVeque, 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances".
    """

    count: float = 0.0
    mean: float = 0.0
    m2: float = 0.0
    """Sum of squared deviations from the mean."""

    def update(self, value_N: Tensor) -> None:
        """Add this rank's values; all ranks must call this together."""
        value_N = value_N.double()
        total, count = all_reduce_sum(torch.stack([value_N.sum(), value_N.new_tensor(len(value_N))])).tolist()
        mean = total / count
        m2 = all_reduce_sum(((value_N - mean) ** 2).sum()[None]).item()
        shift, new_count = mean - self.mean, self.count + count
        self.m2 += m2 + shift**2 * self.count * count / new_count
        self.mean += shift * count / new_count
        self.count = new_count

    @property
    def deviation(self) -> float:
        """Unbiased standard deviation; 0 for a single value."""
        return math.sqrt(self.m2 / (self.count - 1)) if self.count > 1 else 0.0

    @property
    def scale(self) -> float:
        """Divisor of the scores: the deviation, or 1 if all values so far are equal."""
        deviation = self.deviation
        return deviation if deviation > MIN_RELATIVE_DEVIATION * max(1.0, abs(self.mean)) else 1.0
