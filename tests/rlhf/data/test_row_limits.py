"""Files made to fill memory: long lines, long texts, many blank lines, columns that nobody reads."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from rlhf.data import parquet_reader
from rlhf.data.dialogues import Pair, read_file
from rlhf.data.parquet_reader import column_names, parquet_rows
from rlhf.data.readers import read_rows
from rlhf.data.rows import MAX_ROW_BYTES, UnreadableLineError
from rlhf.errors import UserError
from tests.support.data_files import hh_row, write_rows

MEBIBYTE = 2**20
TOO_LONG = "is longer than 16 MiB, the most that is read"


def outcomes(path: Path, *, skip_unreadable: bool = True) -> dict[str, int]:
    items = read_file(path, skip_unreadable=skip_unreadable)
    return dict(Counter("pair" if isinstance(item, Pair) else item for item in items))


def members(*parts: bytes) -> bytes:
    """gzip data of several members, as `cat a.gz b.gz` gives."""
    return b"".join(gzip.compress(part, compresslevel=1) for part in parts)


def line(question: str) -> bytes:
    return json.dumps(hh_row(question)).encode() + b"\n"


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_line_over_the_limit_is_one_unreadable_row(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    long = b'{"chosen": "' + b"a" * (MAX_ROW_BYTES + 3 * MEBIBYTE) + b'"}\n'
    content = line("one") + long + line("three") + long + long + line("six")
    path = tmp_path / name
    path.write_bytes(gzip.compress(content, compresslevel=1) if name.endswith("gz") else content)
    assert outcomes(path) == {"pair": 3, "unreadable line": 3}
    assert (
        f"{path}: 3 unreadable lines are skipped; the first: {path}:2: the line {TOO_LONG}" in capsys.readouterr().out
    )
    assert [number for number, row in read_rows(path, ()) if isinstance(row, UnreadableLineError)] == [2, 4, 5]
    with pytest.raises(UserError, match=rf"{name}:2: the line {TOO_LONG}; fix the line or set data\.on_bad_row=skip"):
        outcomes(path, skip_unreadable=False)


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_the_longest_line_that_is_read(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "a.jsonl"
    longest = b'{"text": "' + b"a" * (MAX_ROW_BYTES - 12) + b'"}'
    path.write_bytes(longest + end)
    [(_, row)] = read_rows(path, ())
    assert row == json.loads(longest)
    path.write_bytes(longest.replace(b"{", b"{ ") + end)
    [(_, row)] = read_rows(path, ())
    assert isinstance(row, UnreadableLineError)


def test_a_line_of_half_a_gigabyte_takes_no_memory_and_reports_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl.gz"
    part = gzip.compress(b"a" * 32 * MEBIBYTE, compresslevel=1)
    path.write_bytes(members(line("one")) + part * 16 + members(b"\n" + line("three")))
    tracemalloc.start()
    try:
        assert outcomes(path) == {"pair": 2, "unreadable line": 1}
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_ROW_BYTES
    finally:
        tracemalloc.stop()
    reported = [json.loads(text[10:]) for text in capsys.readouterr().out.splitlines() if text.startswith("@progress ")]
    assert reported
    assert all(report["phase"] == "read file" and 0 < report["done"] < report["total"] for report in reported)


@pytest.mark.timeout(60)
def test_two_hundred_million_blank_lines_are_passed_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    part = gzip.compress(b"\n" * 20_000_000, compresslevel=1)
    path.write_bytes(members(line("one")) + part * 10 + members(line("last")))
    assert [number for number, _ in read_rows(path, ())] == [1, 200_000_002]


def test_blank_blocks_between_pieces_of_a_line_belong_to_it(tmp_path: Path) -> None:
    """The line is longer than a block, and one of its blocks consists of spaces."""
    text = "a" * MEBIBYTE + " " * 3 * MEBIBYTE + "b" * MEBIBYTE
    path = write_rows(tmp_path / "a.jsonl", [{"text": text}, {"text": "next"}])
    assert list(read_rows(path, ())) == [(1, {"text": text}), (2, {"text": "next"})]


def repeated(text: str, rows: int) -> pyarrow.Array:
    """A column with the same text in all rows, which a file stores once."""
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), pyarrow.array([text]))


def test_a_long_text_of_a_parquet_file_makes_only_its_row_unreadable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows(tmp_path / "a.parquet", [hh_row("one"), hh_row("b" * (MAX_ROW_BYTES + 1)), hh_row("three")])
    assert outcomes(path) == {"pair": 2, "unreadable line": 1}
    assert f"{path}:2: field chosen {TOO_LONG}" in capsys.readouterr().out


@pytest.mark.parametrize("store_schema", [True, False])
def test_a_text_that_is_stored_once_for_many_rows_takes_no_memory_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store_schema: bool
) -> None:
    monkeypatch.setattr(parquet_reader, "BATCH_BYTES", 64 * MEBIBYTE)
    column = repeated("a" * 20 * MEBIBYTE, 60)
    path = tmp_path / "a.parquet"
    parquet.write_table(
        pyarrow.table({"chosen": column, "rejected": column}), path, compression="zstd", store_schema=store_schema
    )
    pool = pyarrow.proxy_memory_pool(pyarrow.default_memory_pool())
    default = pyarrow.default_memory_pool()
    pyarrow.set_memory_pool(pool)
    try:
        assert outcomes(path) == {"unreadable line": 60}
    finally:
        pyarrow.set_memory_pool(default)
    assert pool.max_memory() < 500 * MEBIBYTE  # all rows of one column are 1,200


def test_only_the_columns_that_are_used_are_read(tmp_path: Path) -> None:
    unused = {"embedding": [0.5] * 300, "note": "x" * 3000}
    rows = [hh_row(str(number)) for number in range(5)]
    path = write_rows(tmp_path / "a.parquet", [{**row, **unused} for row in rows])
    assert [row for _, row in read_rows(path, ("chosen", "rejected", "prompt"))] == rows
    assert column_names(path) == ["chosen", "rejected", "embedding", "note"]
    nested = write_rows(tmp_path / "b.parquet", [{"prompt": {"text": "a", "other": "b"}, "x": 1}])
    assert list(parquet_rows(nested, ("prompt.text", "prompt.toxicity"))) == [{"prompt": {"text": "a"}}]


def test_an_error_for_a_parquet_file_with_other_columns_names_all_of_its_columns(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", [{"chosen": "x", "text": "y", "bad\nname": 1}])
    with pytest.raises(UserError, match=r"no columns chosen and rejected \(found: 'bad\\nname', chosen, text\)"):
        outcomes(path)


def test_values_of_all_types_keep_their_content(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"text": "a\u2028b", "number": 1, "list": ["x", None, "y"], "object": {"a": "b", "n": [1, 2]}},
        {"text": None, "number": None, "list": [], "object": None},
        {"text": "", "number": 2**62, "list": None, "object": {"a": None, "n": None}},
    ]
    table = pyarrow.Table.from_pylist(rows)
    large = table.set_column(0, "text", table["text"].cast(pyarrow.large_string()))
    categorical = table.set_column(0, "text", table["text"].dictionary_encode())
    for number, variant in enumerate([table, large, categorical]):
        path = tmp_path / f"{number}.parquet"
        parquet.write_table(variant, path)
        assert list(parquet_rows(path, ("text", "number", "list", "object"))) == rows


def test_texts_that_are_no_utf8_make_only_their_rows_unreadable(tmp_path: Path) -> None:
    content = pyarrow.array([b"one", b"tw\xff", b"three"], pyarrow.binary())
    texts = pyarrow.Array.from_buffers(pyarrow.string(), 3, content.buffers())
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    rows = list(parquet_rows(tmp_path / "a.parquet", ("text",)))
    assert [rows[0], str(rows[1]), rows[2]] == [
        {"text": "one"},
        "field text is not UTF-8 (byte 3)",
        {"text": "three"},
    ]


@pytest.mark.timeout(60)
def test_empty_rows_are_counted(tmp_path: Path) -> None:
    nothing = pyarrow.nulls(100_000, pyarrow.string())
    parquet.write_table(pyarrow.table({"chosen": nothing, "rejected": nothing}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet:1: field chosen is null"):
        outcomes(tmp_path / "a.parquet", skip_unreadable=False)
    assert outcomes(tmp_path / "a.parquet") == {"unreadable line": 100_000}
