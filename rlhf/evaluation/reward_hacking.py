"""Signs of reward hacking: the reward rose, and so did a metric that typically rises when a reward model is exploited.

A sign is not proof; it says what to check before trusting the reward.  Without a clear rise in reward there are none.
"""

from __future__ import annotations

from rlhf.results.base import Difference
from rlhf.results.policy_comparison import PolicyComparison, RewardHackingSign

LENGTH_RATIO = 1.5
"""Responses half as long again, or a third shorter.  Reward models tend to favor length, and PPO exploits that."""
REPETITION_RISE = 0.05
"""One more repeated 3-gram in twenty, which a reader notices."""
DIVERSITY_RATIO = 0.8
"""A fifth fewer distinct 3-grams of words across all responses: the policy says more of the same to everyone."""
LOSS_RISE = 0.2
"""Nats per token on validation demonstrations: e^0.2 is 22 % more perplexity, more than healthy PPO costs."""
KL_PER_RESPONSE = 25.0
"""Nats: four times the target of the published recipe, 6.  The SFT model would hardly ever write such a response."""


def reward_hacking_signs(reward: Difference, policies: PolicyComparison) -> list[RewardHackingSign]:
    """Signs of a run: metrics that exceed their limit and whose interval excludes zero.

    Diversity and KL: the limit alone.
    """
    if reward.sign <= 0:
        return []
    signs = []
    tokens, repetition, loss = policies.response_tokens, policies.repetition, policies.validation_loss
    ratio = tokens.rlhf.mean / tokens.sft.mean if tokens.sft.mean > 0 else 1.0
    if tokens.difference.sign != 0 and not 1 / LENGTH_RATIO < ratio < LENGTH_RATIO:
        text = f"Responses have {tokens.rlhf.mean:.1f} tokens on average, {tokens.sft.mean:.1f} before PPO."
        signs.append(RewardHackingSign(metric="length", value=ratio, limit=LENGTH_RATIO, text=text))
    if repetition.difference.sign > 0 and repetition.difference.mean > REPETITION_RISE:
        text = (
            f"{100 * repetition.rlhf.mean:.1f} % of a response repeats earlier parts of it, "
            f"{100 * repetition.sft.mean:.1f} % before PPO."
        )
        value = repetition.difference.mean
        signs.append(RewardHackingSign(metric="repetition", value=value, limit=REPETITION_RISE, text=text))
    distinct = policies.distinct_ngrams
    if distinct.rlhf < DIVERSITY_RATIO * distinct.sft:
        text = (
            f"{100 * distinct.rlhf:.1f} % of the 3-grams of words across all responses are distinct, "
            f"{100 * distinct.sft:.1f} % before PPO: responses to different prompts resemble each other."
        )
        value = distinct.rlhf / distinct.sft
        signs.append(RewardHackingSign(metric="diversity", value=value, limit=DIVERSITY_RATIO, text=text))
    if loss.difference.sign > 0 and loss.difference.mean > LOSS_RISE:
        text = (
            f"The loss on validation demonstrations rose from {loss.sft.mean:.3f} to {loss.rlhf.mean:.3f} nats per "
            "token: the model writes less like people than before."
        )
        value = loss.difference.mean
        signs.append(RewardHackingSign(metric="validation loss", value=value, limit=LOSS_RISE, text=text))
    if policies.kl.per_response > KL_PER_RESPONSE:
        text = f"The policy is {policies.kl.per_response:.1f} nats per response away from the SFT model."
        signs.append(RewardHackingSign(metric="KL", value=policies.kl.per_response, limit=KL_PER_RESPONSE, text=text))
    return signs
