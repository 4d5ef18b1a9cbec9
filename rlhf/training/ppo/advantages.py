"""From scores to advantages.  B rollouts, R response places padded on the right, T response tokens of all rollouts.

`mask_BR` is true at response tokens: those drawn, the EOS among them.  What stands elsewhere is never read.

Source: Schulman et al., 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation", equations
11, 12 and 16.  Differs from trlx@3340c2f: the score lands on the last token (the EOS where it was drawn), not on the
place after it, so that the EOS is an action in the loss; scores are clipped before they are scaled, not after;
advantages are whitened over all rollouts of a step, once, not anew in each minibatch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf.runtime.distributed import sum_over_processes

WHITENING_EPSILON = 1e-8
"""Added to the variance."""


def shape_rewards(
    score_B: Tensor, logprob_BR: Tensor, reference_logprob_BR: Tensor, mask_BR: Tensor, *, kl_coefficient: float
) -> Tensor:
    """Reward of each token [B, R]: minus the coefficient times log(policy / reference), plus the score at the last one.

    0 at padding.
    """
    log_ratio_BR = (logprob_BR - reference_logprob_BR).where(mask_BR, 0)
    last_B1 = mask_BR.sum(1, keepdim=True) - 1
    return (-kl_coefficient * log_ratio_BR).scatter_add(1, last_B1, score_B[:, None].to(log_ratio_BR.dtype))


def estimate_advantages(
    reward_BR: Tensor, value_BR: Tensor, mask_BR: Tensor, *, discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, both [B, R], 0 at padding.  After the last token the value is 0: the answer is over."""
    value_BR = value_BR.where(mask_BR, 0)
    reward_BR = reward_BR.where(mask_BR, 0)
    advantage_B = torch.zeros_like(value_BR[:, 0])
    next_value_B = torch.zeros_like(advantage_B)
    advantages = []
    for value_B, reward_B in zip(reversed(value_BR.unbind(1)), reversed(reward_BR.unbind(1)), strict=True):
        delta_B = reward_B + discount * next_value_B - value_B
        advantage_B = delta_B + discount * gae_lambda * advantage_B
        next_value_B = value_B
        advantages.append(advantage_B)
    advantage_BR = torch.stack(advantages[::-1], dim=1)
    return advantage_BR, advantage_BR + value_BR


def whiten(advantage_T: Tensor) -> Tensor:
    """Shifted and scaled to mean 0 and (unbiased) variance 1 over the tokens of all processes."""
    total, count = sum_over_processes(torch.stack([advantage_T.sum(), advantage_T.new_tensor(len(advantage_T))]))
    deviation_T: Tensor = advantage_T - total / count
    (squares,) = sum_over_processes((deviation_T**2).sum()[None])
    variance: Tensor = squares / (count - 1).clamp_min(1)
    return deviation_T * (variance + WHITENING_EPSILON).rsqrt()
