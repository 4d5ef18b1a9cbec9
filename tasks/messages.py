"""What a running stage reports, one line each on its standard output: progress, notes and its error.

A stage may print anything else too, and libraries and models print into it: a line that is not exactly such a report
belongs to the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from rlhf.data.invisible import escape_invisible
from rlhf.storage.untrusted import MalformedJsonError, parse_json

MAX_LINE_CHARACTERS = 2**20
"""A longer line is read in parts, so that a stage that never ends its line fills no memory."""
REPORT = ConfigDict(extra="forbid")


Count = Annotated[int, Field(ge=0, le=2**53, strict=True)]
Number = Annotated[float, Field(strict=True)]
Text = Annotated[str, Field(strict=True), AfterValidator(escape_invisible)]


@dataclass(frozen=True, config=REPORT)
class Progress:
    """Progress of one phase of a stage."""

    phase: Text
    done: Count
    total: Count
    metrics: dict[Text, Number]


@dataclass(frozen=True, config=REPORT)
class Note:
    """Something that a person should read."""

    message: Text


@dataclass(frozen=True, config=REPORT)
class StageError:
    """Why a stage failed."""

    kind: Literal["input", "fault"]
    """Whether the user can fix it."""
    message: Text


_PROGRESS, _ERROR = TypeAdapter(Progress), TypeAdapter(StageError)


def read_messages(stream: IO[str]) -> Iterator[Progress | Note | StageError | str]:
    """The reports of a stage; every other line, or part of a line that is too long, as text."""
    is_start = True
    for part in iter(lambda: stream.readline(MAX_LINE_CHARACTERS), ""):
        is_end = part.endswith("\n")
        yield parse_message(part) if is_start and (is_end or len(part) < MAX_LINE_CHARACTERS) else part
        is_start = is_end


def parse_message(line: str) -> Progress | Note | StageError | str:
    """The report in a line, or the line itself if it is none."""
    kind, _, content = line.partition(" ")
    try:
        if kind == "@progress":
            return _PROGRESS.validate_python(parse_json(content))
        if kind == "@note":
            return Note(parse_json(content))
        if kind == "@error":
            return _ERROR.validate_python(parse_json(content))
    except (MalformedJsonError, ValidationError):
        pass
    return line
