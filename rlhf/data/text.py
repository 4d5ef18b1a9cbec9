"""Text of users and models made safe to store and to show."""

from __future__ import annotations

import re

INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""Characters that show nothing, or change how their neighbours show: controls, direction marks, lone surrogates."""


def escape_invisible(text: str) -> str:
    """`text` with every character that shows nothing, or that turns its neighbours around, replaced by its name."""
    return INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def valid_unicode(text: str) -> str:
    """`text` with U+FFFD for each half of a surrogate pair that stands alone, which UTF-8 cannot hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
