"""Rows of the user's data files (.jsonl, .jsonl.gz and .parquet), streamed, with the line number of every error.

Memory is limited: a line or text of more than MAX_ROW_BYTES is an unreadable row, however long it is.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path

from rlhf.data.parquet_reader import parquet_rows
from rlhf.data.rows import MAX_ROW_BYTES, TOO_LONG, Row, UnreadableLineError, kind
from rlhf.errors import UserError
from rlhf.runtime.stage import progress
from rlhf.storage.untrusted import MalformedJsonError, parse_json

BLOCK_BYTES = 2**20
PROGRESS_BYTES = 64 * 2**20
"""Bytes of content between two progress lines of a file; smaller files report none."""

GZIP, PARQUET = "gzip data", "a parquet file"
BEGINNINGS = {
    b"\x1f\x8b": GZIP,
    b"PAR1": PARQUET,
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "zstandard data",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ": "xz data",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
    b"version https://git-lfs": "a pointer of Git LFS (run git lfs pull)",
}
"""First bytes by which the content of a file is known, whatever its name."""


def read_rows(path: Path, fields: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """The lines of a file with their numbers, counted from 1.  Blank lines are skipped.

    Of a parquet file only `fields` are read; "a.b" is the field b of the objects in a.  Raises UserError if the file
    has no row, no permission to be read, content other than its name says, or damage behind which no row can be found.
    """
    empty = True
    try:
        _check_beginning(path)
        is_parquet = path.name.endswith(".parquet")
        for numbered in enumerate(parquet_rows(path, fields), start=1) if is_parquet else _json_rows(path):
            empty = False
            yield numbered
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it ({error.strerror}); change its permissions") from error
    if empty:
        raise UserError(f"{path}: an empty file; remove it or add rows")


def _check_beginning(path: Path) -> None:
    """Raises UserError if the first bytes of the file are not those of its format."""
    with path.open("rb") as stream:
        start = stream.read(32)
    expected = {".gz": GZIP, ".parquet": PARQUET}.get(path.suffix, "JSON Lines")
    content = next((name for beginning, name in BEGINNINGS.items() if start.startswith(beginning)), "JSON Lines")
    if (not start and expected == GZIP) or content == expected:
        return
    what = content if content != "JSON Lines" else "other data"
    raise UserError(f"{path}: {what}, not {expected} as its name says; rename it or get it again")


def _json_rows(path: Path) -> Iterator[tuple[int, Row]]:
    for number, line in _lines(path):
        yield number, line if isinstance(line, UnreadableLineError) else _parse(line)


def _lines(path: Path) -> Iterator[tuple[int, bytes | UnreadableLineError]]:
    """The lines of a file that are not blank; an error for each that is longer than MAX_ROW_BYTES."""
    number, is_skipping = 1, False
    pieces: list[bytes] = []
    for block in _blocks(path):
        if not pieces and not is_skipping and block.isspace():
            number += block.count(b"\n")
            continue
        *lines, rest = block.split(b"\n")
        for line in lines:
            whole = b"".join([*pieces, line]) if pieces else line
            if len(whole) > MAX_ROW_BYTES:
                yield number, UnreadableLineError(f"the line {TOO_LONG}")
            elif not is_skipping and whole and not whole.isspace():
                yield number, whole
            pieces.clear()
            is_skipping = False
            number += 1
        if rest and not is_skipping:
            pieces.append(rest)
            if sum(map(len, pieces)) > MAX_ROW_BYTES:
                yield number, UnreadableLineError(f"the line {TOO_LONG}")
                pieces.clear()
                is_skipping = True
    last = b"".join(pieces)
    if last and not last.isspace():
        yield number, last


def _blocks(path: Path) -> Iterator[bytes]:
    """The content of a file, decompressed, in pieces of at most BLOCK_BYTES."""
    with path.open("rb") as raw:
        size = path.stat().st_size
        stream: BufferedReader | gzip.GzipFile = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        read = reported = 0
        while True:
            try:
                block = stream.read1(BLOCK_BYTES)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise UserError(
                    f"{path}: compressed data are damaged or cut off after {read} bytes of text ({error}); get it again"
                ) from error
            if not block:
                return
            read += len(block)
            if read - reported >= PROGRESS_BYTES:
                reported = read
                progress("read file", min(raw.tell(), size - 1), size, megabytes_of_text=read / 1e6)
            yield block


def _parse(line: bytes) -> Row:
    try:
        content = parse_json(line)
    except MalformedJsonError as error:
        return UnreadableLineError(str(error))
    return content if isinstance(content, dict) else UnreadableLineError(f"{kind(content)}, not an object with fields")
