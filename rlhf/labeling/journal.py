"""Answers on disk: one file per annotator, one line per revision, written to disk before the page confirms it.

Lines are never changed.  A changed answer appends the next revision; an undone answer appends a revision without
choices.  The latest revision of a pair counts.

A full disk or a power cut may leave half a line, which the page has not confirmed.  It is removed at the end of a file
and passed over elsewhere; `Journal.problems` names it.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from rlhf.labeling.judgements import MAX_COMMENT, MAX_SECONDS, Choices, Judgement
from rlhf.storage.files import append_durably
from rlhf.storage.untrusted import MalformedJsonError, parse_json, read_regular_file

MAX_JOURNAL_BYTES = 2**28
"""Larger files are no journals; this is enough for a hundred thousand answers with the longest comments."""
FIRST_YEAR, LAST_YEAR = 2000, 9000
"""Other times are not those of a clock, and cannot be computed with near the ends of the calendar."""
ENTRY_START = b'{"pair_id":'
"""The first bytes of every entry.  Inside of an entry they cannot occur, because quotes in texts are escaped."""


def _iso_time(text: str) -> str:
    if not FIRST_YEAR <= datetime.fromisoformat(text).year <= LAST_YEAR:
        raise ValueError(f"the year must be from {FIRST_YEAR} to {LAST_YEAR}")
    return text


class Entry(BaseModel):
    """One line: a revision of one annotator's answer to one pair."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pair_id: str
    revision: int = Field(ge=1)
    """1 for the first answer to the pair, then counting up."""
    choices: Choices | None
    """None: the answer was undone."""
    left: Literal["a", "b"]
    """Answer that was shown on the left."""
    seconds: float = Field(ge=0, le=MAX_SECONDS)
    comment: str = Field(default="", max_length=MAX_COMMENT)
    submitted_at: Annotated[str, AfterValidator(_iso_time)]
    """When the server received it, ISO 8601."""

    def is_retry_of(self, other: Entry) -> bool:
        """Whether this is the same answer as `other`, sent again because the server's response was lost."""
        return (self.pair_id, self.revision, self.choices, self.comment) == (
            other.pair_id,
            other.revision,
            other.choices,
            other.comment,
        )


class RevisionError(Exception):
    """The answer is based on an outdated revision, because another window changed the pair first."""


class Journal:
    """The answers of one annotator.  Safe to use from several threads."""

    def __init__(self, path: Path, pseudonym: str, name: str | None = None) -> None:
        """Open the journal at `path`.  If it does not say whose it is, `name` is written to it.

        Raises UserError if the file cannot be read.
        """
        self.name: str | None = None
        """The annotator's name; None if no intact line says it."""
        self.pseudonym = pseudonym
        self.problems: list[str] = []
        """One line about each damaged line in the file."""
        self._path = path
        self._lock = Lock()
        self._latest: dict[str, Entry] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._size = self._recover() if path.exists() else 0
        """Bytes of the file's complete lines."""
        if self.name is None and name is not None:
            self._append(json.dumps({"annotator": name}))
            self.name = name

    def latest(self) -> dict[str, Entry]:
        """The latest revision of every pair that was ever answered, by id of the pair."""
        with self._lock:
            return dict(self._latest)

    def judgement(self, pair_id: str) -> Judgement | None:
        """The current answer to a pair, or None if there is none or it was undone."""
        entry = self._latest.get(pair_id)
        if entry is None or entry.choices is None:
            return None
        return Judgement(
            pair_id=pair_id,
            annotator=self.pseudonym,
            choices=entry.choices,
            left=entry.left,
            seconds=entry.seconds,
            comment=entry.comment,
            submitted_at=entry.submitted_at,
        )

    def judgements(self) -> list[Judgement]:
        """The current answers to all pairs that have one."""
        judgements = [self.judgement(pair_id) for pair_id in self.latest()]
        return [judgement for judgement in judgements if judgement is not None]

    def add(self, entry: Entry) -> Entry:
        """Write `entry` to disk and return the pair's latest revision; a retry is not written again.

        Raises RevisionError if `entry` is neither the next revision of its pair nor a retry of the latest one.
        """
        with self._lock:
            latest = self._latest.get(entry.pair_id)
            if latest is not None and entry.is_retry_of(latest):
                return latest
            expected = 1 if latest is None else latest.revision + 1
            if entry.revision != expected:
                raise RevisionError(f"revision is {entry.revision}, expected {expected}")
            self._append(entry.model_dump_json(ensure_ascii=True))
            self._latest[entry.pair_id] = entry
            return entry

    def _recover(self) -> int:
        """Read the file and return the size of its complete lines.  Half a line at its end is removed."""
        content = read_regular_file(self._path, MAX_JOURNAL_BYTES)
        size = content.rfind(b"\n") + 1
        if size < len(content):
            append_durably(self._path, b"", truncate_to=size)
            self.problems.append(f"{self._path}: half a line at the end, which was never confirmed, is removed")
        for number, line in enumerate(content[:size].splitlines(), start=1):
            if (name := _header_name(line)) is not None:
                self.name = name
                continue
            start = max(line.rfind(ENTRY_START), 0)
            entry = _parse_entry(line[start:])
            if entry is None:
                self.problems.append(f"{self._path}: line {number} is passed over, because it is damaged")
                continue
            self._latest[entry.pair_id] = entry
            if start > 0:
                self.problems.append(f"{self._path}: line {number} is damaged before the answer that it ends with")
        return size

    def _append(self, line: str) -> None:
        """Write a line to disk.  What a failed write may have left behind the complete lines is dropped first."""
        self._size = append_durably(self._path, f"{line}\n", truncate_to=self._size)


def _header_name(line: bytes) -> str | None:
    """The annotator's name if `line` says it, as the first line of a journal does, else None."""
    try:
        header = parse_json(line)
    except MalformedJsonError:
        return None
    name = header.get("annotator") if isinstance(header, dict) else None
    return name if isinstance(name, str) else None


def _parse_entry(line: bytes) -> Entry | None:
    """The entry on a line, or None if it is damaged."""
    try:
        return Entry.model_validate_json(line)
    except ValidationError:
        return None
