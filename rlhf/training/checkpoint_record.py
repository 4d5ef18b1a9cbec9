"""The record of a checkpoint's files: `checkpoint.json` with the SHA-256 of each, written last.

A checkpoint without it is half-written.  One whose files are not those of the record was damaged or comes from
elsewhere, and is never read: a training that goes on from it would give another model without a word.
Imports nothing that trlx's older environment lacks.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rlhf.errors import UserError
from rlhf.runtime.stage import note
from rlhf.storage.artifacts import FileRecord, PlainPath
from rlhf.storage.files import discard_folder, file_sha256, write_atomically
from rlhf.storage.untrusted import MalformedJsonError, parse_json, read_regular_file

RECORD = "checkpoint.json"
MAX_RECORD_BYTES = 2**24


class CheckpointRecord(BaseModel):
    """Content of `checkpoint.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    run: str
    """Name of the folder of the stage's output, which is the fingerprint of its settings, inputs and code."""
    step: int
    files: dict[PlainPath, FileRecord]
    """Files below the folder of the checkpoint, by path."""
    beside: dict[PlainPath, FileRecord]
    """Files next to that folder that belong to the checkpoint, by name."""


def write_record(folder: Path, output: Path, step: int, beside: Iterable[Path] = ()) -> None:
    """Declare the checkpoint in `folder` complete.  `output` is the stage's; `beside` are files next to `folder`."""
    record = CheckpointRecord(
        run=output.resolve().name,
        step=step,
        files={path.relative_to(folder).as_posix(): _describe(path) for path in _files(folder)},
        beside={path.name: _describe(path) for path in beside},
    )
    write_atomically(folder / RECORD, record.model_dump_json(indent=2))


def read_record(folder: Path, output: Path) -> CheckpointRecord | None:
    """The record of the checkpoint in `folder`; None if it is incomplete, or not one of the stage's `output`."""
    try:
        content = parse_json(read_regular_file(folder / RECORD, MAX_RECORD_BYTES))
        record = CheckpointRecord.model_validate(content)
    except (UserError, MalformedJsonError, ValidationError):
        return None
    return record if record.run == output.resolve().name and not folder.is_symlink() else None


def find_damage(folder: Path, record: CheckpointRecord) -> str | None:
    """What is wrong with the files of a checkpoint, for a sentence; None if they are those of its record."""
    below = {path.relative_to(folder).as_posix() for path in _files(folder)}
    if foreign := min(below - set(record.files), default=None):
        return f"{foreign[:200]!r} does not belong to it"
    expected = {folder / name: entry for name, entry in record.files.items()}
    expected |= {folder.parent / name: entry for name, entry in record.beside.items()}
    for path, entry in expected.items():
        try:
            status = path.lstat()
            is_intact = stat.S_ISREG(status.st_mode) and status.st_size == entry.size
            if not is_intact or file_sha256(path) != entry.sha256:
                return f"{path.name} was changed"
        except OSError as error:
            return f"{path.name} cannot be read: {error.strerror or error}"
    return None


def discard_damaged(folder: Path, damage: str) -> None:
    """Remove a damaged checkpoint, with a line for the user; call this on the main rank only."""
    note(f"{folder}: this checkpoint is damaged ({damage}) and was removed")
    remove_checkpoint(folder)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, or whatever else has the name of one."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        discard_folder(path)


def _files(folder: Path) -> list[Path]:
    """Everything below `folder` but folders, the record and hidden files."""
    return sorted(
        path
        for path in folder.rglob("*")
        if (path.is_symlink() or not path.is_dir()) and path.name != RECORD and not path.name.startswith(".")
    )


def _describe(path: Path) -> FileRecord:
    return FileRecord(sha256=file_sha256(path), size=path.stat().st_size)
