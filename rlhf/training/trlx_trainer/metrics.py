"""Convert what trlx logs to rows of metrics.jsonl.

Names and units are those of rlhf/training/ppo.  They differ in substance: trlx's KL includes prompt tokens, and its
clip fractions and losses follow its own definitions.  It logs no entropy, gradient norm or explained variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from rlhf.data.text import repetition

UPDATE_KEYS = {
    "policy_loss": "losses/policy_loss",
    "value_loss": "losses/value_loss",
    "policy_clip_fraction": "policy/clipfrac",
    "value_clip_fraction": "values/clipfrac",
}
"""Our name and trlx's key of each metric of an optimizer step."""


@dataclass
class ResponseBatch:
    """Responses of one PPO step or validation: their tokens, including a generated EOS, and their scores."""

    token_ids: list[list[int]] = field(default_factory=list)
    prompt_tokens: int = 0
    scores: list[float] = field(default_factory=list)
    """Before clipping and scaling."""

    def metrics(self, eos: int) -> dict[str, float]:
        """Means over the responses."""
        responses = self.token_ids
        return {
            "score": fmean(self.scores),
            "response_tokens": fmean(map(len, responses)),
            "truncated_share": fmean(not ids or ids[-1] != eos for ids in responses),
            "repetition": fmean(map(repetition, responses)),
        }


def truncate_at_eos(ids: Sequence[int], eos: int) -> list[int]:
    """Token ids up to and including the first EOS."""
    tokens = list(ids)
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens


def rollout_metrics(stats: Mapping[str, float]) -> dict[str, float]:
    """KL in nats per response and its coefficient; trlx logs the square root of the KL."""
    return {"kl": stats["policy/sqrt_kl"] ** 2, "kl_coefficient": stats["kl_ctl_value"]}


def update_metrics(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the optimizer steps of a PPO step."""
    return {ours: fmean(float(stats[theirs]) for stats in updates) for ours, theirs in UPDATE_KEYS.items()}
