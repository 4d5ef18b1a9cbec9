"""Rows of a parquet file: only the columns that are used, in batches that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import compute, parquet

from rlhf.data.rows import MAX_ROW_BYTES, TOO_LONG, Row, UnreadableLineError
from rlhf.errors import UserError, brief

BATCH_ROWS = 1000
WORTH_THREADS = 100
"""Rows in a batch from which on several threads read faster than one."""
BATCH_BYTES = 2**30
"""Bound on the texts of one column in a batch.  A text that is stored once may stand in every row."""


def column_names(path: Path) -> list[str]:
    """The names of all columns of a parquet file."""
    with _damage_named(path, 0), parquet.ParquetFile(path) as file:
        return list(file.schema_arrow.names)


def parquet_rows(path: Path, fields: Sequence[str]) -> Iterator[Row]:
    """The rows of a parquet file with those of `fields` that it has; "a.b" is the field b of the objects in a.

    A text that is no UTF-8 or longer than MAX_ROW_BYTES makes its row unreadable.  Raises UserError if the file is no
    parquet file or damaged.
    """
    number = 0
    with _damage_named(path, number):
        file = parquet.ParquetFile(path)
    with file:
        with _damage_named(path, number):
            rows_at_once = _batch_rows(file.metadata)
        use_threads = rows_at_once >= WORTH_THREADS
        batches = file.iter_batches(rows_at_once, columns=list(fields), use_threads=use_threads)
        while True:
            with _damage_named(path, number):
                batch = next(batches, None)
                rows = [] if batch is None else list(_rows(batch))
            if batch is None:
                return
            number += len(rows)
            yield from rows


@contextmanager
def _damage_named(path: Path, rows_read: int) -> Iterator[None]:
    """Raises UserError, with the place, in place of any error of pyarrow, which are of many types."""
    try:
        yield
    except (UserError, PermissionError):
        raise
    except Exception as error:
        raise UserError(
            f"{path}: not a complete parquet file, unreadable after row {rows_read} ({brief(error)}); get it again"
        ) from error


def _batch_rows(metadata: parquet.FileMetaData) -> int:
    """How many rows are read at once, so that their texts take at most BATCH_BYTES."""
    # Not from the metadata of single columns: if they are damaged, pyarrow ends the process.
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    largest = max((group.total_byte_size for group in groups), default=1)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, largest)))


def _rows(batch: pyarrow.RecordBatch) -> Iterator[Row]:
    if not batch.num_columns:
        yield from ({} for _ in range(batch.num_rows))
        return
    names = batch.schema.names
    for cells in zip(*(_values(column) for column in batch.columns), strict=True):
        for name, cell in zip(names, cells, strict=True):
            if isinstance(cell, UnreadableLineError):
                yield UnreadableLineError(f"field {name} {cell}")
                break
        else:
            yield dict(zip(names, cells, strict=True))


def _values(array: Any) -> list[Any]:
    """The values of a column, with an UnreadableLineError in place of each that cannot be used."""
    types = pyarrow.types
    if types.is_dictionary(array.type):
        used = array.indices.unique().drop_null()
        by_index = dict(zip(used.to_pylist(), _values(array.dictionary.take(used)), strict=True))
        return [None if index is None else by_index[index] for index in array.indices.to_pylist()]
    if types.is_struct(array.type):
        names = [field.name for field in array.type]
        parts = zip(*(_values(part) for part in array.flatten()), strict=True) if names else [()] * len(array)
        return [
            _whole(dict(zip(names, part, strict=True)), part) if valid else None
            for valid, part in zip(array.is_valid().to_pylist(), parts, strict=True)
        ]
    if types.is_list(array.type) or types.is_large_list(array.type):
        elements = iter(_values(array.flatten()))
        lists = ([] if n is None else [next(elements) for _ in range(n)] for n in array.value_lengths().to_pylist())
        return [
            _whole(entries, entries) if valid else None
            for valid, entries in zip(array.is_valid().to_pylist(), lists, strict=True)
        ]
    if types.is_string(array.type) or types.is_large_string(array.type):
        return _texts(array)
    try:
        return list(array.to_pylist())
    except Exception:  # such as a time stamp that Python cannot express
        return [UnreadableLineError(f"has a value of type {array.type} that cannot be read")] * len(array)


def _whole(value: object, parts: Sequence[object]) -> object:
    """`value`, or the error in one of its parts."""
    return next((part for part in parts if isinstance(part, UnreadableLineError)), value)


def _texts(array: Any) -> list[Any]:
    lengths = compute.binary_length(array)
    if (compute.max(lengths).as_py() or 0) <= MAX_ROW_BYTES:
        with suppress(UnicodeDecodeError):
            return list(array.to_pylist())
    return [None if length is None else _text(array[index], length) for index, length in enumerate(lengths.to_pylist())]


def _text(scalar: Any, length: int) -> object:
    if length > MAX_ROW_BYTES:
        return UnreadableLineError(TOO_LONG)
    try:
        return scalar.as_buffer().to_pybytes().decode()
    except UnicodeDecodeError as error:
        return UnreadableLineError(f"is not UTF-8 (byte {error.start + 1})")
