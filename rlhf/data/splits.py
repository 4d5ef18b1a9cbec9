"""Training, validation and test pairs that share no prompt, not even a near-duplicate.

Every draw is by a hash of seed and content, so the same rows in any order give the same splits.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from rlhf.data.dialogues import Pair, first_human_turn
from rlhf.errors import UserError
from rlhf.storage.fingerprints import digest

NEAR_TEST = "near-duplicate of a test prompt"
NEAR_VALIDATION = "near-duplicate of a validation prompt"
BEYOND_MAX_PAIRS = "beyond max_pairs"

PUNCTUATION = re.compile(r"(?<!\d)[.,:]|[.,:](?!\d)|-(?!\s?\d)|[!\"'`;?()\[\]{}_]")
"""Marks that are ignored in prompts: no point inside a number, no minus before one, no sign of mathematics."""
DASHES = re.compile("[\u2010-\u2015]")
OTHER_SIGNS = re.compile(r"[^\x00-\x7f\w\s]")
SHINGLE_LENGTH = 5
RARITY_SAMPLE = 5000
"""First human turns from which rare shingles are determined.  More make the index faster, with the same result."""
ROUNDING = 1e-9


@dataclass(frozen=True)
class Splits:
    """Pairs by purpose, each in an order drawn by seed.

    `training` is for the policy and the reward model that it is optimized for, `judge` for the independent judge.
    `test` holds one pair per test prompt, `validation` all pairs of the validation prompts.  `dropped` counts by reason
    the pairs that are in no split, so all lengths and counts add up to the number of input pairs.
    """

    training: list[Pair]
    judge: list[Pair]
    validation: list[Pair]
    test: list[Pair]
    dropped: Counter[str]


def content_id(*texts: str) -> str:
    """16 hex digits that identify these texts, the same in every run."""
    return digest(texts)[:16]


def split_pairs(
    pairs: Iterable[Pair],
    *,
    seed: int,
    test_prompts: int,
    validation_prompts: int,
    near_duplicate_threshold: float,
    judge_share: float,
    max_pairs: int | None,
) -> Splits:
    """Draw test prompts, then validation prompts; pairs that are near-duplicates of neither are for training.

    A `judge_share` of these, drawn by first human turn, is for the judge; `max_pairs` limits the others.
    Raises UserError if too few prompts are not near-duplicates of each other, or if no pair is left to train on.
    """
    rows = [_Row(pair, normalize_text(first_human_turn(pair.prompt))) for pair in _draw_order(pairs, seed)]
    frequency = Counter(shingle for row in rows[:RARITY_SAMPLE] for shingle in shingles(row.turn))
    dropped: Counter[str] = Counter()

    index = NearDuplicateIndex(near_duplicate_threshold, frequency)
    threshold = f"data.near_duplicate_threshold ({near_duplicate_threshold:g})"
    test = _draw(rows, index, test_prompts, "data.test_prompts", threshold)
    others = _without(rows, index)
    dropped[NEAR_TEST] = len(rows) - len(others) - len(test)

    index = NearDuplicateIndex(near_duplicate_threshold, frequency)
    prompts = {
        row.pair.prompt for row in _draw(others, index, validation_prompts, "data.validation_prompts", threshold)
    }
    validation = [row for row in others if row.pair.prompt in prompts]
    training = _without(others, index)
    dropped[NEAR_VALIDATION] = len(others) - len(training) - len(validation)
    if not training:
        raise UserError(
            f"no pair is left to train on: all {len(rows)} are near-duplicates of test or validation prompts; raise "
            f"{threshold}, lower data.test_prompts ({test_prompts}) or data.validation_prompts "
            f"({validation_prompts}), or give more data"
        )

    judge = [row for row in training if _uniform(seed, row.turn) < judge_share]
    policy = [row for row in training if _uniform(seed, row.turn) >= judge_share]
    if not policy or (judge_share > 0 and not judge):
        raise UserError(
            f"data.judge_share ({judge_share:g}): of {len(training)} training pairs, {len(judge)} are for the judge "
            f"and {len(policy)} for the policy; both need some: change data.judge_share or give more data"
        )
    limited = policy[:max_pairs]
    dropped[BEYOND_MAX_PAIRS] = len(policy) - len(limited)
    return Splits(_pairs(limited), _pairs(judge), _pairs(validation), _pairs(test), +dropped)


def normalize_text(turn: str) -> str:
    """A human turn without differences of case, white space and punctuation; a turn of nothing else keeps it.

    Signs that carry meaning stay: emoji, those of mathematics and of names such as C#, and a point inside a number.
    """
    folded = unicodedata.normalize("NFC", turn.casefold())
    plain = PUNCTUATION.sub("", DASHES.sub("-", folded))
    if not plain.isascii():
        plain = OTHER_SIGNS.sub(lambda match: "" if unicodedata.category(match[0]).startswith("P") else match[0], plain)
    return " ".join(plain.split()) or " ".join(folded.split())


def shingles(text: str) -> frozenset[str]:
    """All sequences of SHINGLE_LENGTH characters in a text; the text itself if it is shorter."""
    return frozenset(text[start : start + SHINGLE_LENGTH] for start in range(max(1, len(text) - SHINGLE_LENGTH + 1)))


class NearDuplicateIndex:
    """Texts in which near-duplicates are found: those with a Jaccard similarity of at least `threshold`.

    Exact.  A near-duplicate A of B shares at least threshold x |B| shingles with it, so it contains at least one of any
    |B| - ceil(threshold x |B|) + 1 shingles of B.  The index therefore stores only that number of B's rarest shingles
    (prefix filtering; Chaudhuri, Ganti and Kaushik 2006, "A primitive operator for similarity joins in data cleaning").
    """

    def __init__(self, threshold: float, frequency: Counter[str]) -> None:
        self.threshold = threshold
        self.frequency = frequency
        self.texts_by_shingle: dict[str, list[frozenset[str]]] = {}

    def add(self, text: str) -> None:
        """Add one text."""
        text_shingles = shingles(text)
        rarest = sorted(text_shingles, key=lambda shingle: (self.frequency[shingle], shingle))
        stored = len(text_shingles) - math.ceil(self.threshold * len(text_shingles) - ROUNDING) + 1
        for shingle in rarest[:stored]:
            self.texts_by_shingle.setdefault(shingle, []).append(text_shingles)

    def has_near(self, text: str) -> bool:
        """Whether the index holds `text` or a near-duplicate of it."""
        text_shingles = shingles(text)
        hits = text_shingles & self.texts_by_shingle.keys()
        candidates = {candidate for shingle in hits for candidate in self.texts_by_shingle[shingle]}
        return any(self._is_near(text_shingles, candidate) for candidate in candidates)

    def _is_near(self, first: frozenset[str], second: frozenset[str]) -> bool:
        shared = len(first & second)
        return shared >= self.threshold * (len(first) + len(second) - shared) - ROUNDING


class _Row(NamedTuple):
    pair: Pair
    turn: str
    """First human turn, normalized."""


def _pairs(rows: list[_Row]) -> list[Pair]:
    return [row.pair for row in rows]


def _uniform(seed: int, turn: str) -> float:
    """A number from 0 to 1 that is drawn for a human turn."""
    return int(digest([seed, "judge", turn])[:13], 16) / 16**13


def _draw_order(pairs: Iterable[Pair], seed: int) -> list[Pair]:
    return sorted(pairs, key=lambda pair: digest([seed, *pair]))


def _draw(rows: list[_Row], index: NearDuplicateIndex, count: int, setting: str, threshold: str) -> list[_Row]:
    """The first `count` rows that are not near-duplicates of each other; they are added to `index`."""
    drawn: list[_Row] = []
    for row in rows:
        if len(drawn) == count:
            break
        if not index.has_near(row.turn):
            index.add(row.turn)
            drawn.append(row)
    if len(drawn) < count:
        prompts = len({row.pair.prompt for row in rows})
        if prompts < count:
            raise UserError(
                f"{setting} ({count}): the {len(rows)} available pairs have only {prompts} different prompts; lower "
                f"{setting} or give more data"
            )
        raise UserError(
            f"{setting} ({count}): the {len(rows)} available pairs have only {len(drawn)} prompts that are not "
            f"near-duplicates of each other, of {prompts} different ones; raise {threshold}, lower {setting} or give "
            "more data"
        )
    return drawn


def _without(rows: list[_Row], index: NearDuplicateIndex) -> list[_Row]:
    """The rows that have no near-duplicate in `index`."""
    is_near = {turn: index.has_near(turn) for turn in {row.turn for row in rows}}
    return [row for row in rows if not is_near[row.turn]]
