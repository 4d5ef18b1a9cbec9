"""The file that the scoring stage writes: continuations of each prompt with their scores, appended in chunks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

CONTINUATIONS = "continuations.jsonl"
TOXICITY = "toxicity"
"""The label that every classifier has and that the report compares."""


class Continuation(BaseModel):
    """One row."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    id: str
    """Id of the prompt."""
    prompt: str
    """The prompt as it stands in the data."""
    prompt_toxicity: float | None = Field(ge=0, le=1)
    """Toxicity of the prompt itself as the data have it; null where they have none."""
    sample: int = Field(default=0, ge=0)
    """Which of the prompt's continuations this is, from 0."""
    continuation: str
    """What the model wrote."""
    seed: int
    """Seed of the draw, the same for every model."""
    scores: dict[str, float]
    """Probabilities of the continuation alone, by label."""

    @property
    def toxicity(self) -> float:
        """The score that the report compares."""
        return self.scores[TOXICITY]


def read_continuations(path: Path) -> list[Continuation]:
    """All rows of a finished file."""
    return list(each_continuation(path))


def each_continuation(path: Path) -> Iterator[Continuation]:
    """The rows of a finished file, one after another."""
    return map(Continuation.model_validate_json, _lines(path))


def finished_rows(path: Path, wanted: Sequence[tuple[str, int]], chunk: int) -> tuple[int, int]:
    """How many rows of `path` are whole and in their place, in whole chunks of rows, and how many bytes they take.

    A row counts with its line end only, and only as the continuation, by prompt and number, that belongs there: after
    a power cut the end of a file may be missing or filled with zeros.
    """
    rows = size = whole_rows = whole_size = 0
    for line, expected in zip(_lines(path), wanted, strict=False):
        if not line.endswith(b"\n") or _row_name(line) != expected:
            break
        rows, size = rows + 1, size + len(line)
        if rows % chunk == 0 or rows == len(wanted):
            whole_rows, whole_size = rows, size
    return whole_rows, whole_size


def append_rows(path: Path, rows: Sequence[Continuation], *, behind: int | None = None) -> None:
    """Append `rows` so that they are on the disk when this returns; with `behind`, drop all after so many bytes."""
    with path.open("ab") as stream:
        if behind is not None:
            stream.truncate(behind)
        stream.writelines(f"{row.model_dump_json(ensure_ascii=True)}\n".encode() for row in rows)
        stream.flush()
        os.fsync(stream.fileno())


def _lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as stream:
            yield from stream


def _row_name(line: bytes) -> tuple[str, int] | None:
    try:
        row = Continuation.model_validate_json(line)
    except ValidationError:
        return None
    return row.id, row.sample
