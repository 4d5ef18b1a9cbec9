"""Judgements of blinded pairs whose evaluation is known."""

from __future__ import annotations

from rlhf.labeling.judgements import Judgement
from rlhf.labeling.manifest import KeyEntry
from tests.support.finished_run import judgement


def key(pairs: int) -> dict[str, KeyEntry]:
    """A is RLHF in the pairs with even numbers."""
    return {
        f"i{n}": KeyEntry(
            id=f"i{n}", prompt_id=f"p{n:03d}", a="rlhf" if n % 2 == 0 else "sft", b="sft" if n % 2 == 0 else "rlhf"
        )
        for n in range(pairs)
    }


def rewards(pairs: int) -> dict[str, tuple[float, float]]:
    """RLHF's reward is lower in the first ten pairs, equal in the last one, and higher in all others."""
    return {f"p{n:03d}": (0.0, -1.0 if n < 10 else 0.0 if n == pairs - 1 else 1.0) for n in range(pairs)}


def prefers(n: int, model: str, annotator: str = "w1") -> Judgement:
    """A judgement of pair n that prefers `model` overall."""
    entry = key(n + 1)[f"i{n}"]
    overall = "tie" if model == "tie" else "a" if entry.a == model else "b"
    return judgement(f"i{n}", annotator, overall)
