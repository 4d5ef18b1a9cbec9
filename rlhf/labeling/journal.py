"""Answers on disk: one file per annotator, one line per revision, on the disk before anybody is told so.

A line is never changed.  Changing one's mind appends the next revision, undoing appends one without choices.  The
latest revision of an item counts.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import Lock
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rlhf.labeling.judgements import MAX_COMMENT, MAX_SECONDS, Choices, Judgement


class Entry(BaseModel):
    """One line: what one annotator says of one item now."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: str
    revision: int = Field(ge=1)
    """1 for the first answer to the item, then counting."""
    choices: Choices | None
    """None: taken back."""
    left: Literal["a", "b"]
    """Which answer stood left."""
    seconds: float = Field(ge=0, le=MAX_SECONDS)
    comment: str = Field(default="", max_length=MAX_COMMENT)
    submitted_at: str
    """When the server took it, ISO 8601."""

    def says_the_same(self, other: Entry) -> bool:
        """Whether both are one answer, sent twice because a response was lost."""
        return (self.item, self.revision, self.choices, self.comment) == (
            other.item,
            other.revision,
            other.choices,
            other.comment,
        )


class RevisionError(Exception):
    """An answer that builds on another state than the one on disk: a second window was faster."""


class Journal:
    """The answers of one annotator.  Safe to use from several threads."""

    def __init__(self, path: Path, name: str, pseudonym: str) -> None:
        self.name = name
        self.pseudonym = pseudonym
        self._path = path
        self._lock = Lock()
        self._latest: dict[str, Entry] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._recover()
        else:
            _append(path, json.dumps({"annotator": name}))

    @classmethod
    def open(cls, path: Path) -> Journal:
        """The journal at `path`, whose first line names its annotator."""
        with path.open(encoding="utf-8") as stream:
            header = json.loads(stream.readline())
        return cls(path, header["annotator"], path.stem)

    def latest(self) -> dict[str, Entry]:
        """The latest revision of every item that was ever answered, by item."""
        with self._lock:
            return dict(self._latest)

    def judgement(self, item: str) -> Judgement | None:
        """What counts for an item: its latest revision, or nothing where that one took the answer back."""
        entry = self._latest.get(item)
        if entry is None or entry.choices is None:
            return None
        return Judgement(
            item=item,
            annotator=self.pseudonym,
            choices=entry.choices,
            left=entry.left,
            seconds=entry.seconds,
            comment=entry.comment,
            submitted_at=entry.submitted_at,
        )

    def judgements(self) -> list[Judgement]:
        """What counts for every item that has an answer."""
        found = [self.judgement(item) for item in self.latest()]
        return [judgement for judgement in found if judgement is not None]

    def add(self, entry: Entry) -> Entry:
        """Put `entry` on disk and return what is there now; an entry that is there already is not added again.

        Raises RevisionError where `entry` is neither the next revision of its item nor a repetition of the latest.
        """
        with self._lock:
            latest = self._latest.get(entry.item)
            if latest is not None and latest.says_the_same(entry):
                return latest
            expected = 1 if latest is None else latest.revision + 1
            if entry.revision != expected:
                raise RevisionError(f"revision {entry.revision} where {expected} comes next")
            _append(self._path, entry.model_dump_json(ensure_ascii=True))
            self._latest[entry.item] = entry
            return entry

    def _recover(self) -> None:
        """Read the file; half a line at its end, which nobody was told of, is cut off."""
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self._path.open("r+b") as stream:
                stream.truncate(len(whole))
                os.fsync(stream.fileno())
        if not whole:
            _append(self._path, json.dumps({"annotator": self.name}))
        for line in whole.splitlines()[1:]:
            entry = Entry.model_validate_json(line)
            self._latest[entry.item] = entry


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
