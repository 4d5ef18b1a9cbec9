"""Every form of data file, and every way in which one can be broken."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from rlhf.data.readers import Row, UnreadableLineError, find_files, read_rows, text_field
from rlhf.errors import UserError
from tests.support.data_files import write_rows

ROWS: list[dict[str, object]] = [{"text": "eins"}, {"text": "zwei — 二"}, {"text": "drei"}]


def problems(path: Path) -> list[tuple[int, str]]:
    """Numbers and faults of the unreadable lines."""
    return [(number, str(row)) for number, row in read_rows(path) if isinstance(row, UnreadableLineError)]


def good(path: Path) -> list[Row]:
    return [row for _, row in read_rows(path) if not isinstance(row, UnreadableLineError)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_all_forms_give_the_same_numbered_rows(tmp_path: Path, name: str) -> None:
    assert list(read_rows(write_rows(tmp_path / name, ROWS))) == list(enumerate(ROWS, start=1))


def test_parquet_is_numbered_over_its_batches(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": str(n)} for n in range(2500)]
    path = write_rows(tmp_path / "a.parquet", rows)
    assert list(read_rows(path)) == list(enumerate(rows, start=1))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"text": "a"', "broken JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'["text"]', "a list, not an object"),
        (b"null", "null, not an object"),
        (b'{"text": "\xff"}', "not UTF-8 (byte 11 of the line)"),
    ],
)
def test_a_broken_line_is_named_and_the_others_are_read(tmp_path: Path, line: bytes, fault: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n' + line + b'\n{"text": "three"}\n')
    [(number, problem)] = problems(path)
    assert number == 2
    assert fault in problem
    assert good(path) == [{"text": "one"}, {"text": "three"}]


def test_blank_lines_a_byte_order_mark_and_a_missing_last_newline_are_no_faults(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\n  \n{"text": "four"}')
    assert list(read_rows(path)) == [(1, {"text": "one"}), (4, {"text": "four"})]


def test_compressed_data_cut_off_gives_what_came_before(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{n} {'x' * 2000}"}) for n in range(400)]
    whole = gzip.compress("\n".join(lines).encode(), compresslevel=0)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    [(number, problem)] = problems(path)
    assert good(path) == [json.loads(line) for line in lines[: number - 1]]
    assert number > 150
    assert "damaged or cut off" in problem


def test_what_is_not_compressed_at_all_is_a_fault_of_line_1(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    [(number, problem)] = problems(path)
    assert number == 1
    assert "damaged or cut off" in problem


def test_a_broken_parquet_file_is_a_fault(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    [(number, problem)] = problems(path)
    assert number == 1
    assert "not a whole parquet file" in problem


@pytest.mark.parametrize("content", [b"", b"\n \n"])
@pytest.mark.parametrize("compressed", [False, True])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes, compressed: bool) -> None:
    path = tmp_path / ("a.jsonl.gz" if compressed else "a.jsonl")
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(UserError, match=r"a\.jsonl.*empty file"):
        list(read_rows(path))


def test_an_empty_parquet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="empty file"):
        list(read_rows(write_rows(tmp_path / "a.parquet", [])))


def test_files_of_a_folder_are_found_at_every_depth_in_order(tmp_path: Path) -> None:
    names = ["b/test.jsonl.gz", "a/train.jsonl", "a/deep/er/x.parquet", "README.md", "a/train.json", "a/.cache"]
    for name in names:
        write_rows(tmp_path / name, ROWS)
    assert [path.relative_to(tmp_path).as_posix() for path in find_files(tmp_path)] == [
        "a/deep/er/x.parquet",
        "a/train.jsonl",
        "b/test.jsonl.gz",
    ]
    assert find_files(tmp_path / "a" / "train.jsonl") == [tmp_path / "a" / "train.jsonl"]


@pytest.mark.parametrize(
    ("name", "fault"), [("nowhere", "no such file"), ("empty", "without data files"), ("a.csv", "not a data file")]
)
def test_a_source_without_data_files_is_refused(tmp_path: Path, name: str, fault: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("chosen,rejected\n")
    with pytest.raises(UserError, match=rf"{name}.*{fault}"):
        find_files(tmp_path / name)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({}, "field text is missing"),
        ({"text": None}, "field text is null, not text"),
        ({"text": [{"role": "user"}]}, "field text is a list, not text"),
        ({"text": 1.5}, "field text is a number, not text"),
        ({"text": True}, "field text is a truth value, not text"),
        ({"text": "\ud83d"}, "field text holds half of a surrogate pair"),
    ],
)
def test_a_field_without_text_is_named(row: dict[str, object], fault: str) -> None:
    with pytest.raises(UnreadableLineError, match=fault):
        text_field(row, "text")
