"""The files of score_toxicity: continuations of each prompt with their scores, appended in chunks.

continuations.jsonl and second_opinion.jsonl have a row for each prompt and sample, in the same order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlhf.results.second_opinion import SecondOpinionRow
from rlhf.storage.files import append_durably

CONTINUATIONS = "continuations.jsonl"
TOXICITY, PROFANITY = "toxicity", "profanity"
"""Labels that the report compares: a toxicity classifier has the first, a profanity detector only the second."""


class Continuation(BaseModel):
    """One row of continuations.jsonl."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    id: str
    """Id of the prompt."""
    prompt: str
    """The prompt as in the data."""
    prompt_toxicity: float | None = Field(ge=0, le=1)
    """Toxicity of the prompt itself according to the data; null if they have none."""
    sample: int = Field(default=0, ge=0)
    """Index of this continuation among those of the prompt, from 0."""
    continuation: str
    """Text that the model generated."""
    seed: int
    """Seed of the continuation, the same for both models."""
    scores: dict[str, float]
    """Probabilities for the continuation without its prompt, by label."""

    @property
    def toxicity(self) -> float:
        """The score that the report compares: that of the main label."""
        return self.scores[main_label(self.scores)]


Row = Continuation | SecondOpinionRow
"""A row of either file; both name the prompt and the sample."""


def main_label(labels: Collection[str]) -> str:
    """The label that the report compares: `toxicity` if it is one of `labels`, else `profanity`."""
    return TOXICITY if TOXICITY in labels else PROFANITY


def iter_continuations(path: Path) -> Iterator[Continuation]:
    """The rows of a finished file, one after another."""
    return map(Continuation.model_validate_json, _lines(path))


def find_complete_rows(
    files: Mapping[Path, type[Row]], expected_rows: Sequence[tuple[str, int]], chunk: int
) -> tuple[int, dict[Path, int]]:
    """Number of the rows that are in complete chunks of `chunk` rows in all files, and their bytes in each file."""
    rows = min(count_complete_rows(path, row_type, expected_rows, chunk)[0] for path, row_type in files.items())
    return rows, {
        path: count_complete_rows(path, row_type, expected_rows[:rows], chunk)[1] for path, row_type in files.items()
    }


def count_complete_rows(
    path: Path, row_type: type[Row], expected_rows: Sequence[tuple[str, int]], chunk: int
) -> tuple[int, int]:
    """Number and bytes of the rows of `path` that are in complete chunks of `chunk` rows.

    A row counts only if its line is complete and it is the expected (prompt id, sample).  After a power cut the tail
    may be missing or zero-filled.
    """
    rows = size = complete_rows = complete_size = 0
    for line, expected in zip(_lines(path), expected_rows, strict=False):
        if not line.endswith(b"\n") or _row_name(line, row_type) != expected:
            break
        rows, size = rows + 1, size + len(line)
        if rows % chunk == 0 or rows == len(expected_rows):
            complete_rows, complete_size = rows, size
    return complete_rows, complete_size


def append_rows(path: Path, rows: Sequence[Row], *, truncate_to: int | None = None) -> None:
    """Append `rows`, which are on disk when this returns; with `truncate_to`, first drop all after that many bytes."""
    append_durably(
        path, "".join(f"{row.model_dump_json(ensure_ascii=True)}\n" for row in rows), truncate_to=truncate_to
    )


def _lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as stream:
            yield from stream


def _row_name(line: bytes, row_type: type[Row]) -> tuple[str, int] | None:
    try:
        row = row_type.model_validate_json(line)
    except ValidationError:
        return None
    return row.id, row.sample
