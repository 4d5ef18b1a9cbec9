"""Mean and standard deviation of everything seen so far."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.runtime.distributed import sum_over_processes

LEAST_RELATIVE_DEVIATION = 1e-6
"""A deviation below this share of the mean is rounding: the values are all equal."""


def scale_scores(score_B: Tensor, moments: RunningMoments, *, clip: float, scale: bool) -> Tensor:
    """Scores clipped to plus and minus `clip`, then divided by the running deviation, these scores included."""
    score_B = score_B.clamp(-clip, clip)
    moments.update(score_B)
    return score_B / moments.scale if scale else score_B


@dataclass
class RunningMoments:
    """Moments of all values so far, of all processes.

    Source: Chan, Golub and LeVeque, 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances".
    """

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared deviations from the mean."""

    def update(self, value_N: Tensor) -> None:
        """Take in this process's values; every process calls this at once."""
        value_N = value_N.double()
        total, count = sum_over_processes(torch.stack([value_N.sum(), value_N.new_tensor(len(value_N))])).tolist()
        mean = total / count
        squares = sum_over_processes(((value_N - mean) ** 2).sum()[None]).item()
        shift, seen = mean - self.mean, self.count + count
        self.squares += squares + shift**2 * self.count * count / seen
        self.mean += shift * count / seen
        self.count = seen

    @property
    def deviation(self) -> float:
        """Unbiased standard deviation; 0 for a single value."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0

    @property
    def scale(self) -> float:
        """What to divide scores by: the deviation, or 1 where all values so far are equal."""
        deviation = self.deviation
        return deviation if deviation > LEAST_RELATIVE_DEVIATION * max(1.0, abs(self.mean)) else 1.0
