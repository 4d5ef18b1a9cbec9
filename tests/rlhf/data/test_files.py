"""Which files of a folder are data: links, leftovers of other programs, other formats, pipes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rlhf.data.files import find_files
from rlhf.errors import UserError
from tests.support.data_files import write_rows

ROWS: list[dict[str, object]] = [{"text": "eins"}]


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_files(folder)]


def notes(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [json.loads(line[6:]) for line in capsys.readouterr().out.splitlines() if line.startswith("@note ")]


def test_files_are_found_in_all_subfolders_in_order(tmp_path: Path) -> None:
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
    ("name", "message"), [("nowhere", "no such file"), ("empty", "without data files"), ("a.csv", "not a data file")]
)
def test_a_source_without_data_files_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("chosen,rejected\n")
    with pytest.raises(UserError, match=rf"{name}.*{message}"):
        find_files(tmp_path / name)


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_rows(data / "helpful" / "train.jsonl", ROWS)
    write_rows(tmp_path / "elsewhere" / "deep" / "train.jsonl", ROWS)
    (data / "harmless").symlink_to("../elsewhere")
    (data / "harmless-too").symlink_to("../elsewhere")
    (data / "one.jsonl").symlink_to("helpful/train.jsonl")
    (data / "helpful" / "above").symlink_to("..")
    (tmp_path / "elsewhere" / "itself").symlink_to(".")
    assert names(data) == ["harmless/deep/train.jsonl", "helpful/train.jsonl", "one.jsonl"]
    (tmp_path / "link").symlink_to("data")
    assert len(names(tmp_path / "link")) == 3


def test_a_folder_of_nothing_but_links_to_folders_is_read(tmp_path: Path) -> None:
    write_rows(tmp_path / "elsewhere" / "train.jsonl", ROWS)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "all").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "data") == ["all/train.jsonl"]


@pytest.mark.parametrize(
    "name",
    [
        "._train.jsonl",
        ".train.jsonl",
        ".ipynb_checkpoints/train-checkpoint.jsonl",
        "__MACOSX/train.jsonl",
        "__MACOSX/._train.jsonl",
        ".Trash-1000/files/old.jsonl",
        "a/.git/x.jsonl",
        "train.jsonl~",
        "train.jsonl.bak",
        "a.jsonl.swp",
    ],
)
def test_what_other_programs_leave_behind_is_not_data(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "train.jsonl", ROWS)
    write_rows(tmp_path / name, ROWS)
    assert names(tmp_path) == ["train.jsonl"]
    assert notes(capsys) == []


def test_a_folder_below_a_hidden_one_is_data_if_it_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path / ".cache" / "data" / "train.jsonl", ROWS)
    assert names(tmp_path / ".cache" / "data") == ["train.jsonl"]
    assert find_files(tmp_path / ".cache" / "data" / "train.jsonl")


def test_one_note_names_shards_of_other_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = ["b.csv", "a.csv", "deep/c.json.zst", "part-00000", "train.jsonl.1", "train.JSONL"]
    for name in ["train.jsonl", *others]:
        write_rows(tmp_path / name, ROWS)
    assert names(tmp_path) == ["train.jsonl"]
    assert notes(capsys) == [
        f"{tmp_path}: passed over 1 file '' (such as 'part-00000'), 1 file '.1' (such as 'train.jsonl.1'), 1 file "
        "'.JSONL' (such as 'train.JSONL'), 2 files '.csv' (such as 'a.csv'), 1 file '.json.zst' (such as 'c.json.zst')"
        "; only files that end in .jsonl, .jsonl.gz, .parquet are read"
    ]


def test_files_that_are_no_shards_are_passed_over_without_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ["train.jsonl", "README.md", "LICENSE", "a/_SUCCESS", "dataset_infos.json", "a/state.json", "x.py"]:
        write_rows(tmp_path / name, ROWS)
    assert names(tmp_path) == ["train.jsonl"]
    assert notes(capsys) == []


def test_an_error_for_a_folder_of_other_formats_names_them(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.csv", ROWS)
    with pytest.raises(
        UserError, match=r"without data files \(found: 1 file '\.csv' \(such as 'a\.csv'\)\); they end in"
    ):
        find_files(tmp_path)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def make_link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


def make_link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("is_source", [True, False])
@pytest.mark.parametrize("make", [make_pipe, make_link_to_itself, make_link_to_nothing, make_link_to_device])
def test_a_pipe_a_device_and_a_link_to_nothing_are_errors(tmp_path: Path, make: object, is_source: bool) -> None:
    assert callable(make)
    write_rows(tmp_path / "train.jsonl", ROWS)
    make(tmp_path / "x.jsonl")
    with pytest.raises(UserError, match=r"x\.jsonl: (not an ordinary file|a link that leads nowhere)"):
        find_files(tmp_path / "x.jsonl" if is_source else tmp_path)


def test_a_linked_part_that_is_missing_is_an_error(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", ROWS)
    (tmp_path / "harmless").symlink_to("../nowhere")
    with pytest.raises(UserError, match="harmless: a link that leads nowhere; mend or remove it"):
        find_files(tmp_path)


@pytest.mark.parametrize("name", ["new\nline.jsonl", "\udcff.jsonl", "\x1b[2J.jsonl"])
def test_a_file_name_that_would_break_a_line_is_an_error(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / name, ROWS)
    with pytest.raises(UserError, match=r"a file name with control characters .*; rename it") as raised:
        find_files(tmp_path)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("source", ["x" * 5000, "a\0b"])
def test_a_source_that_cannot_be_a_path_is_an_error(source: str) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        find_files(Path(source))
