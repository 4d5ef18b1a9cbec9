"""Every format of data file, and every kind of damage to one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from rlhf.data.dialogues import read_file
from rlhf.data.readers import read_rows
from rlhf.data.rows import Row, UnreadableLineError, text_field
from rlhf.errors import UserError
from tests.support.data_files import write_rows

ROWS: list[dict[str, object]] = [{"text": "eins"}, {"text": "zwei — 二"}, {"text": "drei"}]


def problems(path: Path) -> list[tuple[int, str]]:
    """Numbers and errors of the unreadable lines."""
    return [(number, str(row)) for number, row in read_rows(path, ("text",)) if isinstance(row, UnreadableLineError)]


def readable(path: Path) -> list[Row]:
    return [row for _, row in read_rows(path, ("text",)) if not isinstance(row, UnreadableLineError)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_all_formats_give_the_same_numbered_rows(tmp_path: Path, name: str) -> None:
    assert list(read_rows(write_rows(tmp_path / name, ROWS), ("text",))) == list(enumerate(ROWS, start=1))


def test_parquet_rows_are_numbered_across_batches(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": str(n)} for n in range(2500)]
    path = write_rows(tmp_path / "a.parquet", rows)
    assert list(read_rows(path, ("text",))) == list(enumerate(rows, start=1))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a"', "broken JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'["text"]', "a list, not an object"),
        (b"null", "null, not an object"),
        (b'{"text": "\xff"}', "not UTF-8 (byte 11)"),
    ],
)
def test_a_broken_line_is_reported_and_the_others_are_read(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n' + line + b'\n{"text": "three"}\n')
    [(number, problem)] = problems(path)
    assert number == 2
    assert message in problem
    assert readable(path) == [{"text": "one"}, {"text": "three"}]


def test_blank_lines_a_byte_order_mark_and_a_missing_last_newline_are_no_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\n  \n{"text": "four"}')
    assert list(read_rows(path, ("text",))) == [(1, {"text": "one"}), (4, {"text": "four"})]


def test_compressed_data_that_end_early_give_the_rows_before_the_end(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{n} {'x' * 2000}"}) for n in range(400)]
    complete = gzip.compress("\n".join(lines).encode(), compresslevel=0)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(complete[: len(complete) // 2])
    rows: list[Row] = []
    with pytest.raises(UserError, match=r"a\.jsonl\.gz: compressed data are damaged or cut off after \d+ bytes"):
        rows.extend(row for _, row in read_rows(path, ("text",)))
    assert len(rows) > 150
    assert rows == [json.loads(line) for line in lines[: len(rows)]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl.gz",
            b"version https://git-lfs.github.com/spec/v1\n",
            r"a pointer of Git LFS \(run git lfs pull\), not gz",
        ),
        ("a.jsonl.gz", b'{"text": "a"}\n', "other data, not gzip data as its name says; rename it or get it again"),
        ("a.jsonl.gz", b"\x28\xb5\x2f\xfdrest", "zstandard data, not gzip data"),
        ("a.jsonl", gzip.compress(b'{"text": "a"}\n', mtime=0), "gzip data, not JSON Lines"),
        ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), "text in UTF-16, not JSON Lines"),
        ("a.jsonl", b"PAR1 and so on", "a parquet file, not JSON Lines"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("a.parquet", b'{"text": "a"}\n', "other data, not a parquet file"),
        ("a.parquet", b"", "other data, not a parquet file"),
        ("a.parquet", b"PAR1", "not a complete parquet file"),
    ],
)
def test_content_of_another_format_is_an_error_of_the_file(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """Not of a line: data.on_bad_row=skip would leave out all of them."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: {message}"):
        list(read_file(tmp_path / name, skip_unreadable=True))


def test_a_parquet_file_that_ends_early_is_an_error_of_the_file(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\.parquet: not a complete parquet file"):
        list(read_file(path, skip_unreadable=True))


@pytest.mark.parametrize("content", [b"", b"\n \n"])
@pytest.mark.parametrize("compressed", [False, True])
def test_an_empty_file_is_an_error(tmp_path: Path, content: bytes, compressed: bool) -> None:
    path = tmp_path / ("a.jsonl.gz" if compressed else "a.jsonl")
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(UserError, match=r"a\.jsonl.*empty file"):
        list(read_rows(path, ("text",)))


def test_an_empty_parquet_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="empty file"):
        list(read_rows(write_rows(tmp_path / "a.parquet", []), ("text",)))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "field text is missing"),
        ({"text": None}, "field text is null, not text"),
        ({"text": [{"role": "user"}]}, "field text is a list, not text"),
        ({"text": 1.5}, "field text is a number, not text"),
        ({"text": True}, "field text is a truth value, not text"),
        ({"text": "\ud83d"}, "field text contains half of a surrogate pair"),
    ],
)
def test_an_error_for_a_field_without_text_names_it(row: dict[str, object], message: str) -> None:
    with pytest.raises(UnreadableLineError, match=message):
        text_field(row, "text")
