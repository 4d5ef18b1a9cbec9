"""The folder of one comparison's labels: the page's secret, the journals and the output that is imported.

Nothing in it, and nothing that this module opens, knows the key.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Literal

from rlhf.errors import UserError
from rlhf.labeling.blinding import place_in_order, pseudonym, toss_side
from rlhf.labeling.ground_truth_output import OutputWriter
from rlhf.labeling.journal import Entry, Journal
from rlhf.labeling.judgements import Choices
from rlhf.labeling.manifest import Item, read_items

SIGNING_FILE = "page.signing"
ANSWERS = "answers"
OUTPUT = "output"


class LabelsInUseError(UserError):
    """Another page has the labels open, and keeps the output up to date."""


class Labels:
    """Answers of all annotators to the items of one comparison."""

    def __init__(self, comparison: Path, folder: Path) -> None:
        """Open the labels in `folder` for the manifest in `comparison`; what a stopped page left is made whole.

        Raises LabelsInUseError where another page has them open.
        """
        (folder / ANSWERS).mkdir(parents=True, exist_ok=True)
        self._held = _hold(folder)
        self.items = {item.item: item for item in read_items(comparison)}
        self.secret = _read_secret(folder / SIGNING_FILE)
        self._folder = folder
        self._lock = Lock()
        self._journals = {
            path.stem: Journal.open(path) for path in sorted((folder / ANSWERS).glob("*.jsonl")) if _has_header(path)
        }
        self._writer = OutputWriter(folder / OUTPUT, list(self.items.values()))
        self._writer.write(answer for journal in self._journals.values() for answer in journal.judgements())

    @property
    def output(self) -> Path:
        """Folder in Ground Truth's layout with everything answered so far."""
        return self._folder / OUTPUT

    def close(self) -> None:
        """Let others open the labels."""
        os.close(self._held)

    def journal(self, annotator: str) -> Journal:
        """The answers of `annotator`; a new file where there is none yet."""
        name = pseudonym(self.secret, annotator)
        with self._lock:
            if name not in self._journals:
                self._journals[name] = Journal(self._folder / ANSWERS / f"{name}.jsonl", annotator, name)
            return self._journals[name]

    def in_order(self, annotator: str) -> list[Item]:
        """All items in the order of this annotator."""
        return sorted(self.items.values(), key=lambda item: place_in_order(self.secret, annotator, item.item))

    def left(self, annotator: str, item: str) -> Literal["a", "b"]:
        """Which answer stands left for this annotator."""
        return toss_side(self.secret, annotator, item)

    def answer(
        self,
        annotator: str,
        item: str,
        revision: int,
        choices: Choices | None,
        *,
        seconds: float,
        comment: str,
    ) -> Entry:
        """Put an answer on disk, or take one back with None for `choices`; raises RevisionError and KeyError."""
        entry = Entry(
            item=self.items[item].item,
            revision=revision,
            choices=choices,
            left=self.left(annotator, item),
            seconds=seconds,
            comment=comment,
            submitted_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        kept = self.journal(annotator).add(entry)
        with self._lock:
            answers = [journal.judgement(item) for journal in self._journals.values()]
            self._writer.update(item, [answer for answer in answers if answer is not None])
        return kept


def _hold(folder: Path) -> int:
    """Hold the folder against a second page; the operating system lets go when the process ends, however it ends."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LabelsInUseError(f"{folder} is open in another labelling page; use that one or stop it") from None
    return descriptor


def _read_secret(path: Path) -> bytes:
    """The secret of the page, drawn once and readable by its owner alone."""
    if not path.exists():
        temporary = path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(32))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    return path.read_bytes()


def _has_header(path: Path) -> bool:
    """Whether the first line is whole; without it nobody was told that anything is saved."""
    return b"\n" in path.read_bytes()
