"""Answers on disk: one file per annotator, one line per revision, written to disk before the page confirms it.

Lines are never changed.  A changed answer appends the next revision; an undone answer appends a revision without
choices.  The latest revision of a pair counts.
"""

from __future__ import annotations

import json
from pathlib import Path
from threading import Lock
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rlhf.labeling.judgements import MAX_COMMENT, MAX_SECONDS, Choices, Judgement
from rlhf.storage.files import append_durably


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
    submitted_at: str
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
            self._append_header()

    @classmethod
    def open(cls, path: Path) -> Journal:
        """The journal at `path`, whose first line names its annotator."""
        with path.open(encoding="utf-8") as stream:
            header = json.loads(stream.readline())
        return cls(path, header["annotator"], path.stem)

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
            append_durably(self._path, entry.model_dump_json(ensure_ascii=True) + "\n")
            self._latest[entry.pair_id] = entry
            return entry

    def _recover(self) -> None:
        """Read the file.  An incomplete last line is removed: the page never confirmed it."""
        content = self._path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if len(complete) < len(content):
            append_durably(self._path, b"", truncate_to=len(complete))
        if not complete:
            self._append_header()
        for line in complete.splitlines()[1:]:
            entry = Entry.model_validate_json(line)
            self._latest[entry.pair_id] = entry

    def _append_header(self) -> None:
        append_durably(self._path, json.dumps({"annotator": self.name}) + "\n")
