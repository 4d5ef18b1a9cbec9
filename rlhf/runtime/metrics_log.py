"""A JSON Lines file with one row of metrics per step, which survives a kill.

Imports nothing that trlx's older environment lacks.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf.runtime.stage import is_main_process
from rlhf.storage.files import append_durably, write_atomically


def ignore_row(_row: Mapping[str, float], _log: str) -> None:
    """Do nothing with a row."""


class MetricsLog:
    """Rows of metrics.  A resumed run neither repeats nor misses one.  Only the main rank writes."""

    def __init__(
        self, path: Path, resumed_after: int | None, on_row: Callable[[Mapping[str, float], str], None] = ignore_row
    ) -> None:
        """Drop the rows after the step that the run resumes from, or all rows if it is None.

        `on_row` is called with every row that is written and the name of the file without its suffix.
        """
        self.path, self.on_row = path, on_row
        drop_rows_after(resumed_after, path)

    def write(self, row: Mapping[str, float]) -> None:
        """Append a row.  It is on the disk when this returns, so before any later checkpoint."""
        if is_main_process():
            append_durably(self.path, json.dumps(row) + "\n")
            self.on_row(row, self.path.stem)


def drop_rows_after(step: int | None, path: Path) -> None:
    """Drop the rows of a JSON Lines file whose `step` is later, or all rows if it is None, and a damaged last line."""
    if is_main_process():
        last = -1 if step is None else step
        rows = [row for row in _complete_rows(path) if row["step"] <= last]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))


def _complete_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file up to the first damaged line: a kill may have cut off the last one."""
    with contextlib.suppress(FileNotFoundError, ValueError), path.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)
