"""Text as it is shown to people: whatever they could not see, or could not tell from other text, stands as its code.

The page, the report and messages show text that passed through here; their scripts get no other, so this is the only
definition.  Shown by their code are controls, format characters (direction marks, soft hyphens, tags), private and
unassigned characters, halves of surrogate pairs, everything that Unicode lets a font ignore, and blank symbols.

Left alone are invisible characters that a language or an emoji needs where they stand:

- a zero-width joiner between two emoji, and one that selects an emoji's form directly after its symbol;
- a zero-width joiner or non-joiner between two letters of a script that joins letters, such as Persian or Hindi;
- the tags of the flags of England, Scotland and Wales, which Unicode recommends, and of no other.

Everywhere else the same characters hide text, or make two texts look equal.  A character that is newer than Python's
tables (unicodedata.unidata_version) stands as its code, too: it is not known whether it can be seen.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

IGNORABLE = (
    ("\u034f", "\u034f"),  # combining grapheme joiner
    ("\u115f", "\u1160"),  # Hangul fillers
    ("\u17b4", "\u17b5"),  # Khmer inherent vowels
    ("\u180b", "\u180f"),  # Mongolian variation selectors and vowel separator
    ("\u3164", "\u3164"),  # Hangul filler
    ("\ufe00", "\ufe0f"),  # variation selectors
    ("\uffa0", "\uffa0"),  # half-width Hangul filler
    ("\U000e0000", "\U000e0fff"),  # tags, variation selectors supplement
)
"""First and last of the characters that a font may ignore, besides those of the categories below.

Source: Unicode 16, DerivedCoreProperties.txt, Default_Ignorable_Code_Point.
"""
BLANK = ("\u2028", "\u2029", "\u2800", "\U0001d159")
"""Separators that are shown as nothing, the Braille pattern without dots and the empty note head."""
CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn")
_EMOJI = (
    "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u27bf\u2900-\u297f\u2b00-\u2bff\u3030\u303d\u3297"
    "\u3299\U0001f000-\U0001faff"
)
"""Symbols that are emoji, or next to them in Unicode."""
_JOINING = (
    "\u0620-\u065f\u066e-\u06d3\u06d5\u06ee-\u06ef\u06fa-\u06ff\u0710-\u074a\u074d-\u07b1\u07ca-\u07ea\u0840-\u0858"
    "\u08a0-\u08e1\u08e3-\u0dff\u1000-\u109f\u1780-\u17b3\u17b6-\u17d3\u1820-\u18aa\u1900-\u1aad\u1b00-\u1bff\ua840-\ua87f"
    "\ua8e0-\ua8ff\U00011000-\U00011fff"
)
"""Letters and signs of Arabic, Syriac, N'Ko, the scripts of India and South East Asia, and Mongolian."""
_FLAGS = "\U0001f3f4\U000e0067\U000e0062(?:{})\U000e007f".format(
    "|".join("".join(chr(0xE0000 + ord(letter)) for letter in region) for region in ("eng", "sct", "wls"))
)
_PLAIN = "\t\n\x20-\x7e\u00a1-\u00ac\u00ae-\u02ff\u0400-\u052f\u3041-\u3096\u30a1-\u30ff\u4e00-\u9fff\uac00-\ud7a3"
"""Characters of frequent alphabets, all visible, which need no second look."""
_CANDIDATE = re.compile(
    rf"""
    (?=[^{_PLAIN}])
    (?:
        (?P<needed>
            {_FLAGS}
            | (?: (?<=[{_EMOJI}]) | (?<=[{_EMOJI}]\ufe0f) ) \u200d (?=[{_EMOJI}])
            | (?<=[{_EMOJI}]) [\ufe0e\ufe0f]
            | (?<=[0-9\#*]) \ufe0f (?=\u20e3)
            | (?<=[{_JOINING}]) [\u200c\u200d] (?=[{_JOINING}])
        )
        | .
    )
    """,
    re.VERBOSE | re.DOTALL,
)


def escape_invisible(text: str) -> str:
    """`text` with the code point of every invisible character in its place, such as ⟨U+200B⟩; lines and tabs stay."""
    return text if text.isascii() and text.isprintable() else _CANDIDATE.sub(_show, text)


def one_line(text: str, max_characters: int = 300) -> str:
    """Text from outside as a part of one line of a message or a log, without invisible characters or line breaks."""
    shortened = text if len(text) <= max_characters else text[: max_characters - 3] + "..."
    return escape_invisible(shortened).replace("\n", "⟨U+000A⟩").replace("\t", "⟨U+0009⟩")


def _show(match: re.Match[str]) -> str:
    return match[0] if match["needed"] is not None or not _is_invisible(match[0]) else f"⟨U+{ord(match[0]):04X}⟩"


@lru_cache(maxsize=4096)
def _is_invisible(character: str) -> bool:
    return (
        character in BLANK
        or unicodedata.category(character) in CATEGORIES
        or any(first <= character <= last for first, last in IGNORABLE)
    )
