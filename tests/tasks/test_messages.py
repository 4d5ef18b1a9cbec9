"""What a stage prints is a report or a line of its log, whatever it is; never a trace in the run."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.messages import MAX_LINE_CHARACTERS, Note, Progress, StageError, parse_message, read_messages

PROGRESS = {"phase": "p", "done": 1, "total": 2, "metrics": {"loss": 0.5}}
NOT_PROGRESS: list[dict[str, object]] = [
    {"done": "1"},
    {"done": -1},
    {"done": 1.5},
    {"total": 10**80},
    {"total": True},
    {"phase": None},
    {"metrics": []},
    {"metrics": {"loss": "low"}},
    {"more": 1},
]


def test_reports_are_read() -> None:
    assert parse_message(f"@progress {json.dumps(PROGRESS)}\n") == Progress("p", 1, 2, {"loss": 0.5})
    assert parse_message('@note "half done"\n') == Note("half done")
    assert parse_message('@error {"kind": "input", "message": "fix this"}\n') == StageError("input", "fix this")


@pytest.mark.parametrize(
    "line",
    [
        "@progress " + "[" * 100_000,
        "@note " + "[" * 100_000 + "]" * 100_000,
        "@progress null",
        "@progress []",
        *("@progress " + json.dumps(PROGRESS | changed) for changed in NOT_PROGRESS),
        '@progress {"phase": "p"}',
        '@progress {"phase": "p", "done": ' + "9" * 5000 + ', "total": 2, "metrics": {}}',
        "@note 3",
        "@note not json",
        "@note",
        "@error 3",
        "@error {}",
        '@error {"kind": "other", "message": "m"}',
        '@error {"kind": "input", "message": ["m"]}',
        '@error {"kind": "input"}',
    ],
)
def test_a_line_that_is_not_exactly_a_report_is_a_line_of_the_log(line: str) -> None:
    assert parse_message(line) == line


def test_no_report_rewrites_the_terminal() -> None:
    assert parse_message(r'@note "a\u001b[2Jb\ud800c\rd"') == Note("a⟨U+001B⟩[2Jb⟨U+D800⟩c⟨U+000D⟩d")
    error = parse_message(r'@error {"kind": "fault", "message": "two\nlines\u0007"}')
    assert error == StageError("fault", "two\nlines⟨U+0007⟩")


def test_a_line_without_end_is_read_in_parts_and_holds_no_report() -> None:
    text = "@note " + "x" * (MAX_LINE_CHARACTERS - 6) + '@note "inside"\n@note "after"\n'
    parts = list(read_messages(io.StringIO(text)))
    assert parts[-1] == Note("after")
    assert all(isinstance(part, str) and len(part) <= MAX_LINE_CHARACTERS for part in parts[:-1])
    assert "".join(map(str, parts[:-1])) + '@note "after"\n' == text


def test_a_last_line_may_lack_its_end() -> None:
    assert list(read_messages(io.StringIO('a line\n@note "last"'))) == ["a line\n", Note("last")]


def test_a_line_of_ten_megabytes_is_a_report_only_if_it_is_short_enough() -> None:
    text = json.dumps("x" * 10_000_000)
    assert all(isinstance(part, str) for part in read_messages(io.StringIO(f"@note {text}\n")))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("phase", "done", "total", "metrics", "kind", "message"), JSON)
)


@settings(deadline=None)
@given(st.sampled_from(["@progress", "@note", "@error", ""]), st.text() | (JSON | FIELDS).map(json.dumps))
def test_any_text_is_reports_and_lines_and_nothing_is_lost(kind: str, content: str) -> None:
    text = f"{kind} {content}"
    messages = list(read_messages(io.StringIO(text, newline="\n")))
    for message in messages:
        match message:
            case Progress():
                assert message.total >= 0
                assert message.done >= 0
                assert message.phase.encode()  # a terminal can print it
            case Note(words):
                assert words.isprintable() or set(words) & {"\n", "\t"}
            case StageError():
                assert message.kind in ("input", "fault")
    lines = [message for message in messages if isinstance(message, str)]
    if len(lines) == len(messages):
        assert "".join(lines) == text
