"""Log-probabilities and the PPO loss.  T response tokens of all rollouts flattened, V vocabulary.

There is no padding: callers pass response tokens only.

Source: Schulman et al., 2017, "Proximal Policy Optimization Algorithms", equations 7 and 9; the clipped value loss is
that of openai/lm-human-preferences@cbfd210, lm_human_preferences/train_policy.py, PPOTrainer.loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Loss(NamedTuple):
    """Sums over tokens, divided by `token_count`.  Only the total has a gradient."""

    total: Tensor
    policy: Tensor
    value: Tensor
    policy_clip_fraction: Tensor
    value_clip_fraction: Tensor


def token_logprobs(logits_TV: Tensor, token_T: Tensor) -> Tensor:
    """Log-probability [T] of each token in nats, in float32 or better."""
    apply: Callable[[Tensor, Tensor], Tensor] = _TokenLogprobs.apply  # untyped in torch
    return apply(_at_least_float32(logits_TV), token_T)


class _TokenLogprobs(torch.autograd.Function):
    """Saves one [T, V] tensor for the gradient and allocates one more, while cross_entropy allocates three."""

    @staticmethod
    def forward(ctx: Any, logits_TV: Tensor, token_T: Tensor) -> Tensor:
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(logits_TV.softmax(-1), token_T)
        return logits_TV.gather(-1, token_T[:, None])[:, 0] - logits_TV.logsumexp(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_T: Tensor) -> tuple[Tensor, None]:
        probability_TV, token_T = ctx.saved_tensors
        gradient_TV = probability_TV * -gradient_T[:, None]
        return gradient_TV.scatter_add_(-1, token_T[:, None], gradient_T[:, None]), None


def token_entropies(logits_TV: Tensor) -> Tensor:
    """Entropy [T] of each distribution in nats, in float32 or better."""
    logprob_TV = _at_least_float32(logits_TV).log_softmax(-1)
    return -(logprob_TV.exp() * logprob_TV).sum(-1)


def ppo_loss(
    logprob_T: Tensor,
    value_T: Tensor,
    *,
    old_logprob_T: Tensor,
    old_value_T: Tensor,
    advantage_T: Tensor,
    return_T: Tensor,
    policy_clip: float,
    value_clip: float,
    value_coefficient: float,
    token_count: float,
) -> Loss:
    """Clipped policy loss plus half the clipped squared value error, summed over tokens and divided by `token_count`.

    `token_count` is that of the complete minibatch; the tokens given here may be one rank's share of it.
    A token counts as clipped if its clipped term is the larger loss.
    """
    ratio_T = (logprob_T - old_logprob_T).exp()
    surrogate_T = -advantage_T * ratio_T
    clipped_surrogate_T = -advantage_T * ratio_T.clamp(1 - policy_clip, 1 + policy_clip)
    policy = torch.maximum(surrogate_T, clipped_surrogate_T).sum() / token_count

    clipped_value_T = value_T.clamp(old_value_T - value_clip, old_value_T + value_clip)
    error_T = (value_T - return_T) ** 2
    clipped_error_T = (clipped_value_T - return_T) ** 2
    value = 0.5 * torch.maximum(error_T, clipped_error_T).sum() / token_count

    return Loss(
        total=policy + value_coefficient * value,
        policy=policy.detach(),
        value=value.detach(),
        policy_clip_fraction=(clipped_surrogate_T > surrogate_T).sum(dtype=policy.dtype) / token_count,
        value_clip_fraction=(clipped_error_T > error_T).sum(dtype=value.dtype) / token_count,
    )


def _at_least_float32(logits_TV: Tensor) -> Tensor:
    return logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32))
