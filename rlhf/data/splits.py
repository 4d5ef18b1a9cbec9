"""Training, validation and test pairs that share no prompt, not even a near-copy.

Every draw goes by a hash of seed and content, so the same rows in any order give the same splits.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from rlhf.data.dialogues import Pair, first_human_turn
from rlhf.errors import UserError
from rlhf.storage.fingerprints import digest

NEAR_TEST = "near-copy of a test prompt"
NEAR_VALIDATION = "near-copy of a validation prompt"
BEYOND_MAX_PAIRS = "beyond max_pairs"

SHINGLE_LENGTH = 5
RARITY_SAMPLE = 5000
"""First human turns that tell which shingles are rare: more make the index faster, never other."""
ROUNDING = 1e-9


@dataclass(frozen=True)
class Splits:
    """Pairs by what they are for, each in an order drawn by seed.

    `test` holds one pair per test prompt; `validation` all pairs of the validation prompts.  `left_out` counts by
    reason the pairs that are in none, so all lengths and counts add up to the pairs that came in.
    """

    training: list[Pair]
    validation: list[Pair]
    test: list[Pair]
    left_out: Counter[str]


def content_id(*texts: str) -> str:
    """16 hex digits that stand for these texts, the same in every run."""
    return digest(texts)[:16]


def split_pairs(
    pairs: Iterable[Pair],
    *,
    seed: int,
    test_prompts: int,
    validation_prompts: int,
    near_duplicate_threshold: float,
    max_pairs: int | None,
) -> Splits:
    """Draw test prompts, then validation prompts, and leave to training what is near neither.

    Raises UserError where the pairs have too few prompts that are no near-copies of each other, or none is left to
    train on.
    """
    rows = [_Row(pair, comparable(first_human_turn(pair.prompt))) for pair in _draw_order(pairs, seed)]
    frequency = Counter(shingle for row in rows[:RARITY_SAMPLE] for shingle in shingles(row.turn))
    left_out: Counter[str] = Counter()

    held_out = NearCopies(near_duplicate_threshold, frequency)
    test = _draw(rows, held_out, test_prompts, "data.test_prompts")
    others = _without(rows, held_out)
    left_out[NEAR_TEST] = len(rows) - len(others) - len(test)

    held_out = NearCopies(near_duplicate_threshold, frequency)
    prompts = {row.pair.prompt for row in _draw(others, held_out, validation_prompts, "data.validation_prompts")}
    validation = [row for row in others if row.pair.prompt in prompts]
    training = _without(others, held_out)
    left_out[NEAR_VALIDATION] = len(others) - len(training) - len(validation)
    if not training:
        raise UserError(
            f"no pair is left to train on: all {len(rows)} are near-copies of the test or validation prompts; lower "
            f"data.test_prompts ({test_prompts}) or data.validation_prompts ({validation_prompts}), or give more data"
        )

    kept = training[:max_pairs]
    left_out[BEYOND_MAX_PAIRS] = len(training) - len(kept)
    return Splits(_pairs(kept), _pairs(validation), _pairs(test), +left_out)


def comparable(turn: str) -> str:
    """A human turn without the differences that do not count: case, punctuation, white space."""
    return " ".join(re.sub(r"[^\w\s]|_", "", turn.casefold()).split())


def shingles(text: str) -> frozenset[str]:
    """All runs of SHINGLE_LENGTH characters in a text; the whole text where it is shorter."""
    return frozenset(text[start : start + SHINGLE_LENGTH] for start in range(max(1, len(text) - SHINGLE_LENGTH + 1)))


class NearCopies:
    """Tells whether a text has a Jaccard similarity of at least `similarity` with one of the texts held out.

    Exact, and fast because a near-copy A of B shares at least similarity x |B| shingles with it: it cannot miss all of
    any |B| - ceil(similarity x |B|) + 1 shingles of B, so only the rarest that many are looked up (prefix filtering;
    Chaudhuri, Ganti and Kaushik 2006, "A primitive operator for similarity joins in data cleaning").
    """

    def __init__(self, similarity: float, frequency: Counter[str]) -> None:
        self.similarity = similarity
        self.frequency = frequency
        self.held_out_by_shingle: dict[str, list[frozenset[str]]] = {}

    def add(self, text: str) -> None:
        """Hold out one more text."""
        held_out = shingles(text)
        rarest = sorted(held_out, key=lambda shingle: (self.frequency[shingle], shingle))
        looked_up = len(held_out) - math.ceil(self.similarity * len(held_out) - ROUNDING) + 1
        for shingle in rarest[:looked_up]:
            self.held_out_by_shingle.setdefault(shingle, []).append(held_out)

    def has_near(self, text: str) -> bool:
        """Whether a text that is held out is `text` or a near-copy of it."""
        own = shingles(text)
        hits = own & self.held_out_by_shingle.keys()
        candidates = {held_out for shingle in hits for held_out in self.held_out_by_shingle[shingle]}
        return any(self._near(own, held_out) for held_out in candidates)

    def _near(self, one: frozenset[str], other: frozenset[str]) -> bool:
        shared = len(one & other)
        return shared >= self.similarity * (len(one) + len(other) - shared) - ROUNDING


class _Row(NamedTuple):
    pair: Pair
    turn: str
    """First human turn, made comparable."""


def _pairs(rows: list[_Row]) -> list[Pair]:
    return [row.pair for row in rows]


def _draw_order(pairs: Iterable[Pair], seed: int) -> list[Pair]:
    return sorted(pairs, key=lambda pair: digest([seed, *pair]))


def _draw(rows: list[_Row], held_out: NearCopies, count: int, field: str) -> list[_Row]:
    """The first `count` rows that are no near-copies of each other, which are held out from now on."""
    drawn: list[_Row] = []
    for row in rows:
        if len(drawn) == count:
            break
        if not held_out.has_near(row.turn):
            held_out.add(row.turn)
            drawn.append(row)
    if len(drawn) < count:
        raise UserError(
            f"{field} ({count}): the {len(rows)} pairs at hand have only {len(drawn)} prompts that are no near-copies "
            f"of each other; lower {field} or give more data"
        )
    return drawn


def _without(rows: list[_Row], held_out: NearCopies) -> list[_Row]:
    """The rows that are near nothing held out."""
    is_near = {turn: held_out.has_near(turn) for turn in {row.turn for row in rows}}
    return [row for row in rows if not is_near[row.turn]]
