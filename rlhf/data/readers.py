"""Rows of data files that people hand us: .jsonl, .jsonl.gz and .parquet, streamed, with the place of every fault.

Memory is bounded by the longest line, or by one batch of a parquet file.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow
from pyarrow import parquet

from rlhf.errors import UserError

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
PARQUET_BATCH_ROWS = 1000


class UnreadableLineError(ValueError):
    """A line that cannot be used.  The message names the field where there is one and says what is wrong with it."""


Row = dict[str, object] | UnreadableLineError
"""One line: its object, or what is wrong with it."""


def find_files(source: Path) -> list[Path]:
    """The data files that `source` means: itself, or all those below the folder, sorted.

    Raises UserError where there is none.
    """
    if source.is_file():
        if not source.name.endswith(SUFFIXES):
            raise UserError(f"{source}: not a data file; give one that ends in {', '.join(SUFFIXES)}")
        return [source]
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    files = sorted(path for path in source.rglob("*") if path.name.endswith(SUFFIXES) and path.is_file())
    if not files:
        raise UserError(f"{source}: a folder without data files; they end in {', '.join(SUFFIXES)}")
    return files


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """The lines of a file with their numbers, counted from 1; blank lines are passed over.

    After damage that hides where the next line starts (compressed data that ends early) nothing more comes.
    Raises UserError where the file has no row at all or may not be read.
    """
    empty = True
    try:
        for numbered in _parquet_rows(path) if path.name.endswith(".parquet") else _json_rows(path):
            empty = False
            yield numbered
    except PermissionError as error:
        raise UserError(f"{path}: may not be read ({error.strerror}); change its permissions") from error
    if empty:
        raise UserError(f"{path}: an empty file; remove it or give one with rows")


def text_field(row: dict[str, object], name: str) -> str:
    """The text in field `name`.  Raises UnreadableLineError where it is missing or is not valid text."""
    value = row.get(name)
    if not isinstance(value, str):
        found = f"is {_kind(value)}, not text" if name in row else "is missing"
        raise UnreadableLineError(f"field {name} {found}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnreadableLineError(f"field {name} holds half of a surrogate pair, which is no text") from None
    return value


def _json_rows(path: Path) -> Iterator[tuple[int, Row]]:
    for number, line in _lines(path):
        if isinstance(line, UnreadableLineError):
            yield number, line
        elif line.strip():
            yield number, _parse(line)


def _lines(path: Path) -> Iterator[tuple[int, bytes | UnreadableLineError]]:
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as stream:
        number = 1
        while True:
            try:
                line = stream.readline()
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                yield number, UnreadableLineError(f"compressed data is damaged or cut off ({error})")
                return
            if not line:
                return
            yield number, line
            number += 1


def _parse(line: bytes) -> Row:
    try:
        content = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return UnreadableLineError(f"not UTF-8 (byte {error.start + 1} of the line)")
    except ValueError as error:
        return UnreadableLineError(f"broken JSON ({error})")
    except RecursionError:
        return UnreadableLineError("broken JSON (nested too deeply)")
    return content if isinstance(content, dict) else UnreadableLineError(f"{_kind(content)}, not an object with fields")


def _parquet_rows(path: Path) -> Iterator[tuple[int, Row]]:
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        yield number + 1, UnreadableLineError(f"not a whole parquet file ({str(error).strip()})")


def _kind(value: object) -> str:
    """What JSON calls a value of this type."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"of type {type(value).__name__}")
