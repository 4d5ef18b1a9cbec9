"""KL divergence of the policy from the reference, and the adaptive KL coefficient.  B rollouts, R response tokens.

Source: Ziegler et al., 2019, "Fine-Tuning Language Models from Human Preferences", section 2.2.  Differs from
trlx@3340c2f: only response tokens count; the estimator is unbiased (trlx has the ratio upside down); the coefficient
is updated once per step with the number of rollouts that the KL was measured on, not once per epoch with the minibatch
size.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

MAX_RELATIVE_ERROR = 0.2
"""The relative error of the KL is clipped to plus or minus this."""


def response_kl(logprob_BR: Tensor, reference_logprob_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """KL(policy || reference) of each response [B] in nats, estimated from its sampled tokens; never negative.

    Source: Schulman, 2020, "Approximating KL Divergence", estimator k3, with r = reference / policy: (r - 1) - log r.
    """
    log_ratio_BR = (reference_logprob_BR - logprob_BR).where(mask_BR, 0)
    return (log_ratio_BR.expm1() - log_ratio_BR).sum(1)


@dataclass
class KlController:
    """The KL coefficient.  It rises while the measured KL is above the target and falls while it is below."""

    coefficient: float
    target: float | None
    """KL in nats per response; None keeps the coefficient constant."""
    horizon: int
    """Time constant, in rollouts."""

    def update(self, kl: float, rollouts: int) -> None:
        """Update the coefficient with the mean KL of `rollouts` rollouts."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -MAX_RELATIVE_ERROR), MAX_RELATIVE_ERROR)
            self.coefficient *= 1 + error * rollouts / self.horizon
