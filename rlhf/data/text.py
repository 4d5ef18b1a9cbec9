"""Properties of text of users and models, and forms of it that are safe to store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NGRAM = 3
"""Length in tokens of the n-grams that `repetition` and `distinct_ngrams` count."""


def valid_unicode(text: str) -> str:
    """`text` with U+FFFD for each lone half of a surrogate pair, which UTF-8 cannot encode."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def repetition(token_ids: Sequence[int]) -> float:
    """Share of the n-grams in `token_ids` that occur earlier in it; 0 if it is shorter than NGRAM."""
    ngrams = _ngrams(token_ids)
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def distinct_ngrams(rows: Iterable[Sequence[int | str]]) -> float:
    """Share of distinct n-grams among those of all rows of tokens or words; 0 if no row has NGRAM of them.

    It falls if responses repeat each other.  It also falls with more text: compare it only for equally many rows.
    """
    ngrams = [ngram for tokens in rows for ngram in _ngrams(tokens)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def _ngrams(tokens: Sequence[int | str]) -> list[tuple[int | str, ...]]:
    return list(zip(*(tokens[start:] for start in range(NGRAM)), strict=False))
