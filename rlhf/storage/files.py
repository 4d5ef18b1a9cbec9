"""Files: atomic and durable writes, hashes, locks, replacement of folders."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from rlhf.errors import UserError
from rlhf.storage.untrusted import path_inside

REMOVED = ".removed-"
"""Start of the names of folders that are being removed, next to where they were."""
PUBLISH_LOCK = ".publish"
"""End of the name of the file, next to a run's folder, that is locked while its results are published."""
FICLONE = 0x40049409
"""Request number of Linux (ioctl_ficlone(2)): let a file share the blocks of another."""
WAIT_SECONDS = 0.2
"""Time between two attempts to get a lock."""


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` so that `path` holds either the old content or all of the new, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def append_durably(path: Path, data: str | bytes, *, truncate_to: int | None = None) -> int:
    """Append `data` and return the file's new size; data and the file's name are on the disk when this returns.

    With `truncate_to`, everything after that many bytes is dropped first.  If the disk is full or the write fails
    otherwise, nothing of `data` stays in the file.
    """
    content = memoryview(data.encode() if isinstance(data, str) else data)
    with path.open("ab", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        if truncate_to is not None and truncate_to < size:
            size = stream.truncate(truncate_to)
        try:
            written = 0
            while written < len(content):
                written += stream.write(content[written:])
            os.fsync(stream.fileno())
        except BaseException:
            with suppress(OSError):
                stream.truncate(size)
            raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return size + len(content)


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


def discard_folder(folder: Path) -> None:
    """Remove a folder at once for everybody else: a half-removed one is never taken for an artifact."""
    trash = folder.with_name(f"{REMOVED}{uuid4().hex}")
    folder.rename(trash)
    shutil.rmtree(trash)


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold a lock on the file `path` inside the `with` block; it ends with this process at the latest.

    Any number of holders may share a lock if all of them ask for a `shared` one.  Without `wait`, raises
    BlockingIOError if somebody else holds the lock.  Raises UserError if `path` is a link or no ordinary file.
    """
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        descriptor = _open_lock(path)
        try:
            fcntl.flock(descriptor, kind)
            if _is_at(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)


def _open_lock(path: Path) -> int:
    """Descriptor of a lock file, which no child process inherits."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR):
            raise
        raise UserError(f"{path}: a link or a folder, but it must be a lock file; remove it") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path}: not an ordinary file, but it must be a lock file; remove it")
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at `path`: `rlhf clean` may have removed it before it was locked."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def locked_when_free(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock on the file `path` inside the `with` block, however long others hold it before; remove it after.

    `on_wait` is called again and again while they do; what it raises ends the wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(path, wait=False))
                break
            except BlockingIOError:
                on_wait()
                time.sleep(WAIT_SECONDS)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def copy_model(source: Path, folder: Path) -> None:
    """Replace `folder` by the model files of `source`: hard links for weights if possible, copies of the rest.

    Only from one artifact to another: nobody edits either.
    """
    with replace_folder(folder) as new:
        for file in sorted(source.iterdir()):
            link_or_copy(file, new / file.name)


def copy_folder(source: Path, folder: Path) -> None:
    """Replace `folder` by a copy of `source`, a folder of files, in which the user may edit anything.

    Copies share their blocks where the file system can do so.  Raises UserError for a link in `source` that leads out
    of it.
    """
    with replace_folder(folder) as new:
        for name in sorted(path.name for path in source.iterdir()):
            _clone_or_copy(path_inside(source, name), new / name)


def _clone_or_copy(source: Path, target: Path) -> None:
    try:
        with source.open("rb") as reader, target.open("wb") as writer:
            fcntl.ioctl(writer, FICLONE, reader.fileno())
    except OSError:  # a file system without shared blocks, or another one
        shutil.copyfile(source, target)


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
