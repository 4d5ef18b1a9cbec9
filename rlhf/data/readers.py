"""Rows of the user's data files (.jsonl, .jsonl.gz and .parquet), streamed, with the line number of every error.

Memory is limited to the longest line or one batch of a parquet file.
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
    """A line that cannot be used.  The message says why, and names the field if it is about one."""


Row = dict[str, object] | UnreadableLineError
"""One line: its object, or the error in it."""


def find_files(source: Path) -> list[Path]:
    """The data files of `source`: the file itself, or all data files in the folder and its subfolders, sorted.

    Raises UserError if there is none.
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
    """The lines of a file with their numbers, counted from 1.  Blank lines are skipped.

    Reading ends at an error after which the next line cannot be found, such as compressed data that ends early.
    Raises UserError if the file has no row or no permission to be read.
    """
    empty = True
    try:
        for numbered in _parquet_rows(path) if path.name.endswith(".parquet") else _json_rows(path):
            empty = False
            yield numbered
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it ({error.strerror}); change its permissions") from error
    if empty:
        raise UserError(f"{path}: an empty file; remove it or add rows")


def text_field(row: dict[str, object], name: str) -> str:
    """The text in field `name`.  Raises UnreadableLineError if it is missing or not valid text."""
    value = row.get(name)
    if not isinstance(value, str):
        problem = f"is {_kind(value)}, not text" if name in row else "is missing"
        raise UnreadableLineError(f"field {name} {problem}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UnreadableLineError(f"field {name} contains half of a surrogate pair, which is not valid text") from error
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
        yield number + 1, UnreadableLineError(f"not a complete parquet file ({str(error).strip()})")


def _kind(value: object) -> str:
    """The name in JSON of the type of `value`."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"of type {type(value).__name__}")
