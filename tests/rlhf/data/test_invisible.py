"""What people cannot see stands as its code; what a language or an emoji needs stays as it is."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.invisible import escape_invisible, one_line

HIDDEN = {
    "soft hyphen": 0xAD,
    "combining grapheme joiner": 0x34F,
    "Arabic letter mark": 0x61C,
    "Hangul filler": 0x115F,
    "second Hangul filler": 0x1160,
    "Khmer inherent vowel": 0x17B4,
    "Mongolian vowel separator": 0x180E,
    "zero-width space": 0x200B,
    "zero-width non-joiner": 0x200C,
    "zero-width joiner": 0x200D,
    "right-to-left mark": 0x200F,
    "line separator": 0x2028,
    "right-to-left override": 0x202E,
    "word joiner": 0x2060,
    "invisible times": 0x2062,
    "isolate": 0x2066,
    "unassigned and ignorable": 0x2065,
    "empty Braille pattern": 0x2800,
    "third Hangul filler": 0x3164,
    "private use": 0xE000,
    "first variation selector": 0xFE00,
    "last variation selector": 0xFE0F,
    "byte order mark": 0xFEFF,
    "half-width Hangul filler": 0xFFA0,
    "interlinear annotation": 0xFFF9,
    "noncharacter": 0xFFFF,
    "tag": 0xE0041,
    "variation selector of the supplement": 0xE0100,
    "private plane": 0x10FFFD,
    "escape": 0x1B,
    "next line": 0x85,
    "carriage return": 0x0D,
    "half a surrogate pair": 0xD800,
}
VISIBLE = (
    "a\tb\nc ~",
    "שלום, Привет, 你好, こんにちは, ไทย, é e\u0301, ½ € — “quoted”",
    "👩\u200d🔬 👨\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 🧑🏽\u200d💻 ❤\ufe0f\u200d🔥 🧔\u200d♀\ufe0f",
    "☺\ufe0f ☺\ufe0e ©\ufe0f 1\ufe0f\u20e3 #\ufe0f\u20e3",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "\u0645\u06cc\u200c\u062e\u0648",
    "क्\u200dष ක්\u200dර",
)


@pytest.mark.parametrize("code_point", HIDDEN.values(), ids=HIDDEN)
def test_hidden_characters_are_shown_by_their_code(code_point: int) -> None:
    assert escape_invisible(f"a{chr(code_point)}b") == f"a⟨U+{code_point:04X}⟩b"
    assert escape_invisible(chr(code_point)) == f"⟨U+{code_point:04X}⟩"


@pytest.mark.parametrize("text", VISIBLE)
def test_what_a_language_or_an_emoji_needs_stays(text: str) -> None:
    assert escape_invisible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pay\u200dpal", "pay⟨U+200D⟩pal"),
        ("👩\u200d", "👩⟨U+200D⟩"),
        ("👩\u200d\u200d🔬", "👩⟨U+200D⟩⟨U+200D⟩🔬"),
        ("☺\ufe0f\ufe0f", "☺\ufe0f⟨U+FE0F⟩"),
        ("a\ufe0f\u200d🔬", "a⟨U+FE0F⟩⟨U+200D⟩🔬"),
        ("1\ufe0f", "1⟨U+FE0F⟩"),
        ("\u0645\u200c\u200c\u0645", "\u0645⟨U+200C⟩⟨U+200C⟩\u0645"),
        ("\U0001f3f4\U000e0068\U000e0069\U000e007f", "\U0001f3f4⟨U+E0068⟩⟨U+E0069⟩⟨U+E007F⟩"),
    ],
)
def test_the_same_characters_elsewhere_are_shown(text: str, shown: str) -> None:
    assert escape_invisible(text) == shown


def test_no_character_of_an_invisible_category_stays() -> None:
    codes = [*range(0x10000), *range(0x10000, sys.maxunicode, 101)]
    hidden = [chr(code) for code in codes if unicodedata.category(chr(code))[0] == "C" and chr(code) not in "\t\n"]
    assert [character for character in hidden if character in escape_invisible(f"a{character}b")] == []


@settings(max_examples=200)
@given(st.text(st.characters(codec=None)))
def test_shown_text_stays_as_it_is_when_shown_again(text: str) -> None:
    shown = escape_invisible(text)
    assert escape_invisible(shown) == shown
    shown.encode("utf-8")


def test_one_line_stays_one_line() -> None:
    assert one_line("a\nb\r\tc\x1b[31m") == "a⟨U+000A⟩b⟨U+000D⟩⟨U+0009⟩c⟨U+001B⟩[31m"
    assert one_line("x" * 400) == "x" * 297 + "..."
