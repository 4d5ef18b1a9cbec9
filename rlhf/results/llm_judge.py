"""Judgements of a language model: the rows that ask_llm_judge writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from rlhf.results.base import Record

LLM_JUDGEMENTS = "llm_judgements.jsonl"
LlmAnswer = Literal["rlhf", "sft", "tie", "unreadable"]
"""The model whose response is better; `unreadable` if the language model said neither A, B nor C."""


class LlmJudgement(Record):
    """What a language model says about both models' responses to one test prompt."""

    id: str
    """ID of the prompt."""
    first: LlmAnswer
    """Answer if the response of the RLHF model is shown first."""
    second: LlmAnswer
    """Answer if the response of the SFT model is shown first."""
    vote: Literal[1, 0, -1]
    """1 if RLHF is better in both orders, -1 if SFT is, else 0."""
    flipped: bool
    """Whether both answers can be read and differ, so that the order of the responses decided."""


def iter_llm_judgements(path: Path) -> Iterator[LlmJudgement]:
    """The rows of a finished llm_judgements.jsonl, in the order of the test prompts."""
    with path.open("rb") as stream:
        for line in stream:
            yield LlmJudgement.model_validate_json(line)


def count_judgements(judgements: Iterable[LlmJudgement]) -> dict[str, int]:
    """Pairs that the RLHF model wins, ties or loses, pairs with a position flip, and unreadable answers.

    A pair has two answers, so up to two of them can be unreadable.
    """
    counts = dict.fromkeys(("wins", "ties", "losses", "position_flips", "unreadable"), 0)
    for row in judgements:
        counts[{1: "wins", 0: "ties", -1: "losses"}[row.vote]] += 1
        counts["position_flips"] += row.flipped
        counts["unreadable"] += (row.first, row.second).count("unreadable")
    return counts
