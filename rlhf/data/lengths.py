"""Bounds on texts in characters, for texts so long that a tokenizer should never see them."""

from __future__ import annotations

from collections.abc import Iterable

LEAST_CHARACTERS_PER_TOKEN = 128
"""Some tokenizers make one token of a long word that they do not know; no word is longer than this."""


def characters_per_token(vocabulary: Iterable[str]) -> int:
    """The most characters of text that one token stands for.

    A text of more than n times as many characters has more than n tokens.  To count them would take minutes: the time
    of some tokenizers grows with the square of a text without spaces.
    """
    return max(LEAST_CHARACTERS_PER_TOKEN, *(len(token) for token in vocabulary))
