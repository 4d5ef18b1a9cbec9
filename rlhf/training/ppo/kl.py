"""How far the policy is from the reference, and the coefficient that holds it there.  B rollouts, R response places.

Source: Ziegler et al., 2019, "Fine-Tuning Language Models from Human Preferences", section 2.2.  Differs from
trlx@3340c2f: KL counts response tokens only; the estimator is unbiased (trlx has the ratio upside down); the
coefficient is stepped with the rollouts that the KL was measured on, not with the size of a minibatch.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

LARGEST_ERROR = 0.2
"""Bound of the relative error that the coefficient answers to."""


def answer_kl(logprob_BR: Tensor, reference_logprob_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """KL(policy || reference) of each answer [B] in nats, estimated from its tokens; never negative.

    Source: Schulman, 2020, "Approximating KL Divergence", estimator k3, with r = reference / policy: (r - 1) - log r.
    """
    log_ratio_BR = (reference_logprob_BR - logprob_BR).where(mask_BR, 0)
    return (log_ratio_BR.expm1() - log_ratio_BR).sum(1)


@dataclass
class KlController:
    """The KL coefficient, raised where the measured KL is above the target and lowered where it is below."""

    coefficient: float
    target: float | None
    """KL in nats per answer; None keeps the coefficient."""
    horizon: int
    """Rollouts over which the coefficient answers."""

    def update(self, kl: float, rollouts: int) -> None:
        """Step the coefficient with the mean KL of so many rollouts."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -LARGEST_ERROR), LARGEST_ERROR)
            self.coefficient *= 1 + error * rollouts / self.horizon
