"""A JSON Lines file with a row for a step.  Imports nothing that trlx's older environment lacks."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rlhf.runtime.stage import is_main_process
from rlhf.storage.files import write_atomically


def nobody(_row: Mapping[str, float], _log: str) -> None:
    """Hears of a row and does nothing."""


class StepLog:
    """Rows which a resumed run neither doubles nor misses."""

    def __init__(
        self, path: Path, resumed_after: int | None, tell: Callable[[Mapping[str, float], str], None] = nobody
    ) -> None:
        """Drop the rows behind the step that the run goes on from, all of them where it is None.

        `tell` hears of every row that is written, with the file's name.
        """
        self.path, self.tell = path, tell
        if is_main_process():
            last = -1 if resumed_after is None else resumed_after
            kept = [row for row in _whole_rows(path) if row["step"] <= last]
            write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, row: Mapping[str, float]) -> None:
        """Append a row; it is on the disk when this returns, before any checkpoint that counts on it."""
        if is_main_process():
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            self.tell(row, self.path.stem)


def _whole_rows(path: Path) -> Iterator[dict[str, float]]:
    """The rows of a file whose last line may have been cut off."""
    with contextlib.suppress(FileNotFoundError, ValueError), path.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)
