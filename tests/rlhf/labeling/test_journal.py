"""Journals: no confirmed answer is lost, and no answer is counted twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlhf.errors import UserError
from rlhf.labeling.journal import Entry, Journal, RevisionError
from rlhf.labeling.judgements import Choices

A = Choices(helpfulness="a", harmlessness="tie", overall="a")
B = Choices(helpfulness="b", harmlessness="tie", overall="b")


def entry(pair_id: str = "x", revision: int = 1, choices: Choices | None = A, comment: str = "") -> Entry:
    return Entry(
        pair_id=pair_id,
        revision=revision,
        choices=choices,
        left="b",
        seconds=3.5,
        comment=comment,
        submitted_at="2026-01-02T03:04:05.678+00:00",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers" / "abc.jsonl"


def test_an_answer_sent_twice_is_one_answer(path: Path) -> None:
    journal = Journal(path, "abc", "Ada")
    first = journal.add(entry())
    again = journal.add(entry().model_copy(update={"seconds": 9.0}))
    assert again is first
    assert len(path.read_text().splitlines()) == 2  # the header and one answer
    assert [judgement.choices for judgement in journal.judgements()] == [A]


def test_changed_and_undone_answers_are_appended(path: Path) -> None:
    journal = Journal(path, "abc", "Ada")
    journal.add(entry())
    journal.add(entry(revision=2, choices=None))
    assert journal.judgements() == []
    journal.add(entry(revision=3, choices=B, comment="hm\N{SNOWMAN}"))
    reopened = Journal(path, "abc")
    assert reopened.name == "Ada"
    [judgement] = reopened.judgements()
    assert (judgement.choices, judgement.comment, judgement.annotator) == (B, "hm\N{SNOWMAN}", "abc")
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize("revision", [1, 3])
def test_an_answer_to_an_outdated_revision_is_rejected(path: Path, revision: int) -> None:
    journal = Journal(path, "abc", "Ada")
    journal.add(entry())
    before = path.read_bytes()
    with pytest.raises(RevisionError, match="expected 2"):
        journal.add(entry(revision=revision, choices=B))
    assert path.read_bytes() == before


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_an_incomplete_line_is_removed_and_the_next_answer_is_complete(path: Path, cut: int) -> None:
    """Killed while a line was being written: the page has not confirmed it."""
    journal = Journal(path, "abc", "Ada")
    journal.add(entry("x"))
    complete = path.read_bytes()
    journal.add(entry("y"))
    path.write_bytes(path.read_bytes()[: len(complete) + cut])
    recovered = Journal(path, "abc")
    assert set(recovered.latest()) == {"x"}
    recovered.add(entry("z"))
    assert set(Journal(path, "abc").latest()) == {"x", "z"}


def test_the_answer_is_on_disk_when_add_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    monkeypatch.setattr("rlhf.storage.files.os.fsync", lambda _descriptor: synced.append(path.read_bytes()))
    Journal(path, "abc", "Ada").add(entry())
    assert b'"pair_id":"x"' in synced[-1]


HEADER = b'{"annotator": "Ada"}\n'


def line(pair_id: str, comment: str = "") -> bytes:
    return entry(pair_id, comment=comment).model_dump_json(ensure_ascii=True).encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "pairs", "name", "problems"),
    [
        (b"", set(), None, []),
        (b'{"annota', set(), None, ["half a line at the end, which was never confirmed, is removed"]),
        (HEADER, set(), "Ada", []),
        (HEADER + line("x") + b'{"pair_id":"y","rev', {"x"}, "Ada", ["half a line at the end"]),
        (HEADER + b'{"pair_id":"y","rev\n' + line("x"), {"x"}, "Ada", ["line 2 is passed over"]),
        (HEADER + b'{"pair_id":"y","rev' + line("x"), {"x"}, "Ada", ["line 2 is damaged before the answer"]),
        (b'{"annota' + HEADER + line("x"), {"x"}, None, ["line 1 is passed over"]),
        (b"7\n" + line("x"), {"x"}, None, ["line 1 is passed over"]),
        (b'{"annotator": 7}\n' + line("x"), {"x"}, None, ["line 1 is passed over"]),
        (line("x"), {"x"}, None, []),
        (HEADER + line("x") + b"\0" * 4096 + b"\n" + line("y"), {"x", "y"}, "Ada", ["line 3 is passed over"]),
        (HEADER + line("x", 'says {"pair_id":"y"}'), {"x"}, "Ada", []),
        (HEADER + line("x").replace(b"2026-01-02T03:04:05.678+00:00", b"0001-01-01"), set(), "Ada", ["line 2"]),
        (HEADER + b"[" * 100_000 + b"\n" + line("x"), {"x"}, "Ada", ["line 2 is passed over"]),
        (HEADER + line("x").replace(b"3.5", b"9" * 5000), set(), "Ada", ["line 2 is passed over"]),
    ],
)
def test_damage_costs_only_the_damaged_line(
    path: Path, content: bytes, pairs: set[str], name: str | None, problems: list[str]
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    journal = Journal(path, "abc")
    assert (set(journal.latest()), journal.name, len(journal.problems)) == (pairs, name, len(problems))
    for problem, expected in zip(journal.problems, problems, strict=True):
        assert problem.startswith(f"{path}: {expected}")
    journal = Journal(path, "abc", "Ada")
    journal.add(entry("z"))
    reopened = Journal(path, "abc")
    assert (set(reopened.latest()), reopened.name) == (pairs | {"z"}, "Ada")


def test_a_journal_that_is_no_file_is_one_error(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(UserError, match="not an ordinary file"):
        Journal(path, "abc")
