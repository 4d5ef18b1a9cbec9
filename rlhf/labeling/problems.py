"""Lists of problems in messages: a file of a million bad lines must not fill the terminal."""

from __future__ import annotations

SHOWN_PROBLEMS = 20
"""Problems of one kind that a message lists; the others are counted."""


def first_problems(problems: list[str]) -> list[str]:
    """The first SHOWN_PROBLEMS of them and, in a line of its own, how many there are besides."""
    more = len(problems) - SHOWN_PROBLEMS
    return problems[:SHOWN_PROBLEMS] + ([f"... and {more:,} more"] if more > 0 else [])
