"""The folder of one labeling task's answers: the page's secret, the journals and the output that is imported.

Neither the folder nor this module contains or opens the key.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Literal

from rlhf.errors import UserError
from rlhf.labeling.blinding import answer_shown_left, order_key, pseudonym
from rlhf.labeling.ground_truth_output import OutputWriter
from rlhf.labeling.journal import Entry, Journal
from rlhf.labeling.judgements import Choices, Judgement
from rlhf.labeling.manifest import BlindedPair, read_blinded_pairs
from rlhf.storage.files import locked
from rlhf.storage.untrusted import read_regular_file

SIGNING_FILE = "page.signing"
SECRET_BYTES = 32
ANSWERS = "answers"
OUTPUT = "output"


class SessionInUseError(UserError):
    """Another labeling page has the folder open and keeps its output up to date."""


class LabelingSession:
    """Answers of all annotators to the pairs of one labeling task."""

    def __init__(self, labeling_task: Path, folder: Path) -> None:
        """Open the answers in `folder` to the manifest in `labeling_task`, and recover those of a killed page.

        Raises SessionInUseError if another page has them open, and UserError if one of the files cannot be read.
        """
        (folder / ANSWERS).mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(folder / ".lock", wait=False))
            except BlockingIOError as error:
                raise SessionInUseError(
                    f"{folder} is open in another labeling page; use that one or stop it"
                ) from error
            self.pairs = {pair.id: pair for pair in read_blinded_pairs(labeling_task)}
            self.secret = _read_secret(folder / SIGNING_FILE)
            self._folder = folder
            self._lock = Lock()
            self._journals = {
                path.stem: Journal(path, path.stem) for path in sorted((folder / ANSWERS).glob("*.jsonl"))
            }
            self.problems = [problem for journal in self._journals.values() for problem in journal.problems]
            """One line about each damaged line in the files with answers."""
            self._writer = OutputWriter(folder / OUTPUT, list(self.pairs.values()))
            self._writer.write(self._known_judgements())
            self._open_lock = stack.pop_all()

    @property
    def output(self) -> Path:
        """Folder with all answers so far in Ground Truth's output layout."""
        return self._folder / OUTPUT

    def close(self) -> None:
        """Let another page open the answers."""
        self._open_lock.close()

    def _known_judgements(self) -> Iterator[Judgement]:
        """All answers to pairs of the manifest; `problems` counts the others."""
        for name, journal in self._journals.items():
            judgements = journal.judgements()
            known = [judgement for judgement in judgements if judgement.pair_id in self.pairs]
            if unknown := len(judgements) - len(known):
                path = self._folder / ANSWERS / f"{name}.jsonl"
                self.problems.append(f"{path}: answers to unknown pairs, which are passed over: {unknown}")
            yield from known

    def journal(self, annotator: str) -> Journal:
        """The answers of `annotator`; a new file if there is none yet."""
        name = pseudonym(self.secret, annotator)
        with self._lock:
            if name not in self._journals or self._journals[name].name is None:
                self._journals[name] = Journal(self._folder / ANSWERS / f"{name}.jsonl", name, annotator)
            return self._journals[name]

    def pairs_for(self, annotator: str) -> list[BlindedPair]:
        """All pairs in this annotator's order."""
        return sorted(self.pairs.values(), key=lambda pair: order_key(self.secret, annotator, pair.id))

    def left(self, annotator: str, pair_id: str) -> Literal["a", "b"]:
        """The answer that this annotator sees on the left."""
        return answer_shown_left(self.secret, annotator, pair_id)

    def answer(
        self,
        annotator: str,
        pair_id: str,
        revision: int,
        choices: Choices | None,
        *,
        seconds: float,
        comment: str,
    ) -> Entry:
        """Save an answer on disk, or undo one if `choices` is None; raises RevisionError and KeyError."""
        entry = Entry(
            pair_id=self.pairs[pair_id].id,
            revision=revision,
            choices=choices,
            left=self.left(annotator, pair_id),
            seconds=seconds,
            comment=comment,
            submitted_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        saved = self.journal(annotator).add(entry)
        with self._lock:
            judgements = [journal.judgement(pair_id) for journal in self._journals.values()]
            self._writer.update(pair_id, [judgement for judgement in judgements if judgement is not None])
        return saved


def _read_secret(path: Path) -> bytes:
    """The page's secret, drawn once and readable by its owner only.

    Raises UserError if the file is not as it was written: everybody could forge links with an empty secret.
    """
    if not path.exists():
        temporary = path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(SECRET_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    secret = read_regular_file(path, SECRET_BYTES)
    if len(secret) != SECRET_BYTES:
        raise UserError(
            f"{path}: {len(secret)} bytes, but a secret has {SECRET_BYTES}; restore it from a backup, or remove it if "
            "nobody has answered yet"
        )
    return secret
