"""Files: atomic and durable writes, hashes, locks, replacement of folders."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that `path` holds either the old content or all of the new, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def append_durably(path: Path, data: str | bytes, *, truncate_to: int | None = None) -> None:
    """Append `data`; it is on the disk when this returns, and so is the file's name.

    With `truncate_to`, everything after that many bytes is dropped first.
    """
    with path.open("ab") as stream:
        if truncate_to is not None:
            stream.truncate(truncate_to)
        stream.write(data.encode() if isinstance(data, str) else data)
        stream.flush()
        os.fsync(stream.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; after the `with` block it replaces `folder`.

    If the block fails or the process is killed, `folder` keeps its old content, or is missing if it was being swapped.
    """
    new, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    yield new
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold a lock on the file `path` inside the `with` block; it ends with this process at the latest.

    Any number of holders may share a lock if all of them ask for a `shared` one.  Without `wait`, raises
    BlockingIOError if somebody else holds the lock.
    """
    with path.open("a") as stream:
        fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield


def copy_model(source: Path, folder: Path) -> None:
    """Replace `folder` by the model files of `source`: hard links for weights if possible, copies of the rest."""
    with replace_folder(folder) as new:
        for file in sorted(source.iterdir()):
            link_or_copy(file, new / file.name)


def link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link for weights, which nobody edits, if the file system allows it; otherwise copy."""
    if source.suffix == ".safetensors":
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)
    else:
        shutil.copyfile(source, target)


def read_jsonl(path: Path) -> list[dict[str, object]]:
    """The rows of one of our own JSON Lines files."""
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> None:
    """Write rows as JSON Lines.  Model text that is not valid Unicode is kept by escaping."""
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
