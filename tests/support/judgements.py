"""Judgements of blinded pairs whose evaluation is known."""

from __future__ import annotations

from typing import Literal

from rlhf.labeling.judgements import Judgement
from rlhf.labeling.manifest import KeyEntry
from rlhf.results.schema import ResponsePair
from tests.support.finished_run import judgement


def key(pairs: int) -> dict[str, KeyEntry]:
    """A is RLHF in the pairs with even numbers."""
    return {
        f"i{n}": KeyEntry(
            id=f"i{n}", prompt_id=f"p{n:03d}", a="rlhf" if n % 2 == 0 else "sft", b="sft" if n % 2 == 0 else "rlhf"
        )
        for n in range(pairs)
    }


def responses(pairs: int) -> list[ResponsePair]:
    """The optimized reward of RLHF is lower in the first ten pairs, equal in the last one, and higher in all others."""
    return [response_pair(n, -1 if n < 10 else 0 if n == pairs - 1 else 1) for n in range(pairs)]


def response_pair(n: int, vote: Literal[-1, 0, 1], more_tokens: int = 0) -> ResponsePair:
    """Pair n, on which the optimized reward model votes so."""
    return ResponsePair(
        id=f"p{n:03d}",
        prompt="",
        sft="yes",
        rlhf="no",
        sft_reward=0.0,
        rlhf_reward=float(vote),
        more_tokens=more_tokens,
        votes={"optimised": vote},
        prompt_toxicity=0.0,
        sft_toxicity=0.0,
        rlhf_toxicity=0.0,
    )


def prefers(n: int, model: str, annotator: str = "w1") -> Judgement:
    """A judgement of pair n that prefers `model` overall."""
    entry = key(n + 1)[f"i{n}"]
    overall = "tie" if model == "tie" else "a" if entry.a == model else "b"
    return judgement(f"i{n}", annotator, overall)
