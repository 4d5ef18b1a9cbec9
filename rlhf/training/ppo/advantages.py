"""Per-token rewards, advantages and returns.

B rollouts, R response tokens padded on the right, T response tokens of all rollouts flattened.  `mask_BR` is True at
sampled tokens, including the EOS.  Values at padding are never read.

Source: Schulman et al., 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation", equations
11, 12 and 16.  Differs from trlx@3340c2f: the score is added at the last token (the EOS if it was sampled), not at the
position after it, so that the EOS is an action in the loss; advantages are whitened once over all rollouts of a step,
not in each minibatch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf.runtime.distributed import all_reduce_sum

WHITENING_EPSILON = 1e-8
"""Added to the variance."""


def shape_rewards(
    score_B: Tensor, logprob_BR: Tensor, reference_logprob_BR: Tensor, mask_BR: Tensor, *, kl_coefficient: float
) -> Tensor:
    """Reward of each token [B, R]: -kl_coefficient * log(policy / reference), plus the score at the last token.

    0 at padding.
    """
    log_ratio_BR = (logprob_BR - reference_logprob_BR).where(mask_BR, 0)
    last_B1 = mask_BR.sum(1, keepdim=True) - 1
    return (-kl_coefficient * log_ratio_BR).scatter_add(1, last_B1, score_B[:, None].to(log_ratio_BR.dtype))


def estimate_advantages(
    reward_BR: Tensor, value_BR: Tensor, mask_BR: Tensor, *, discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, both [B, R], 0 at padding.  The value after the last token is 0."""
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
    """Shift and scale to mean 0 and (unbiased) variance 1 over the tokens of all ranks."""
    total, count = all_reduce_sum(torch.stack([advantage_T.sum(), advantage_T.new_tensor(len(advantage_T))]))
    deviation_T: Tensor = advantage_T - total / count
    (squares,) = all_reduce_sum((deviation_T**2).sum()[None])
    variance: Tensor = squares / (count - 1).clamp_min(1)
    return deviation_T * (variance + WHITENING_EPSILON).rsqrt()
