"""Repetition and diversity of token ids, and text that is safe to store."""

from __future__ import annotations

import pytest

from rlhf.data.text import distinct_ngrams, repetition, valid_unicode


@pytest.mark.parametrize(
    ("token_ids", "expected"),
    [
        ([], 0),
        ([1, 2], 0),
        ([1, 2, 3, 4], 0),
        ([1, 2, 3, 4, 5], 0),
        ([1, 2, 3, 1, 2, 3], 1 / 4),
        ([1, 1, 1, 1, 1], 2 / 3),
        ([7, 7, 7, 7, 7], 2 / 3),
    ],
)
def test_repetition_is_the_share_of_ngrams_that_came_before(token_ids: list[int], expected: float) -> None:
    assert repetition(token_ids) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], 0),
        ([[1, 2], [3]], 0),
        ([[1, 2, 3]], 1),
        ([[1, 2, 3, 4], [1, 2, 3]], 2 / 3),
        ([[1, 2, 3]] * 4, 1 / 4),
        ([[7, 7, 7, 7], [], [5, 6, 7, 8]], 3 / 4),
    ],
)
def test_diversity_is_the_share_of_distinct_ngrams_of_all_rows(rows: list[list[int]], expected: float) -> None:
    assert distinct_ngrams(rows) == pytest.approx(expected)


def test_a_lone_half_of_a_surrogate_pair_is_replaced() -> None:
    assert valid_unicode("a\ud83d b \U0001f600") == "a\ufffd b \U0001f600"
