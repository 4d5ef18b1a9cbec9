"""What trlx tells of its training, as rows of our metrics.jsonl.

Names and units are those of rlhf/ppo/metrics.py and step.py.  Different in substance: trlx's KL counts prompt tokens
too, and its clip fractions and losses are as it defines them.  It has no entropy, gradient norm or explained variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

TRAINED = {
    "policy_loss": "losses/policy_loss",
    "value_loss": "losses/value_loss",
    "policy_clip_fraction": "policy/clipfrac",
    "value_clip_fraction": "values/clipfrac",
}
"""Our name and trlx's of each figure of an optimizer step."""
NGRAM = 3
"""Tokens in a row whose return within an answer counts as repetition."""


@dataclass
class Answers:
    """Answers of one round or measurement: their tokens, EOS included where it was drawn, and their scores."""

    token_ids: list[list[int]] = field(default_factory=list)
    prompt_tokens: int = 0
    scores: list[float] = field(default_factory=list)
    """Before clipping and scaling."""

    def figures(self, eos: int) -> dict[str, float]:
        """Means over the answers."""
        answers = self.token_ids
        return {
            "score": fmean(self.scores),
            "response_tokens": fmean(map(len, answers)),
            "truncated_share": fmean(not ids or ids[-1] != eos for ids in answers),
            "repetition": fmean(map(repetition, answers)),
        }


def cut_answer(ids: Sequence[int], eos: int) -> list[int]:
    """The ids of a row up to its first EOS, which is kept."""
    drawn = list(ids)
    return drawn[: drawn.index(eos) + 1] if eos in drawn else drawn


def repetition(token_ids: Sequence[int]) -> float:
    """Share of the answer's n-grams of 3 tokens that stood in it before."""
    ngrams = list(zip(*(token_ids[start:] for start in range(NGRAM)), strict=False))
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def rollout_figures(stats: Mapping[str, float]) -> dict[str, float]:
    """What trlx logs of a round of rollouts: KL in nats per answer, of which it tells the root."""
    return {"kl": stats["policy/sqrt_kl"] ** 2, "kl_coefficient": stats["kl_ctl_value"]}


def trained_figures(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the optimizer steps of a round."""
    return {ours: fmean(float(stats[theirs]) for stats in updates) for ours, theirs in TRAINED.items()}


def speed_figures(
    seconds: Mapping[str, float], *, drawn_tokens: float, read_tokens: float, epochs: int, rollouts: int
) -> dict[str, float]:
    """Seconds of each phase, tokens per second (in decode those drawn, else those read) and rollouts per second."""
    tokens = {"decode": drawn_tokens, "estimate": read_tokens, "score": read_tokens, "train": read_tokens * epochs}
    return {
        **{f"{phase}_seconds": round(seconds[phase], 4) for phase in tokens},
        **{f"{phase}_tokens_per_second": round(count / seconds[phase], 1) for phase, count in tokens.items()},
        "rollouts_per_second": round(rollouts / sum(seconds[phase] for phase in tokens), 3),
    }
