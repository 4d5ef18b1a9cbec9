"""Names, JSON and files from outside: whatever they are, the answer is a value or one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlhf.errors import UserError
from rlhf.storage.untrusted import MalformedJsonError, parse_json, path_inside, read_regular_file


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "a/../../x", "a/..", "", ".", "./a", "a//b", "a/", "a\\b", "a\nb", "a\0b", "..", "\x1b[2J"],
)
def test_names_that_leave_their_folder_or_are_no_plain_path_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="not a plain path inside"):
        path_inside(tmp_path, name)


def test_plain_names_are_paths_below_the_folder(tmp_path: Path) -> None:
    assert path_inside(tmp_path, "a.json") == tmp_path / "a.json"
    assert path_inside(tmp_path, "a/..b/c d é") == tmp_path / "a" / "..b" / "c d é"


def test_links_that_lead_out_or_to_themselves_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "out").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    (folder / "inner").symlink_to(".")
    with pytest.raises(UserError, match="leads out of"):
        path_inside(folder, "out/file")
    with pytest.raises(UserError, match="folder"):
        path_inside(folder, "loop/file")
    assert path_inside(folder, "inner/file") == folder / "inner" / "file"


@given(st.text(alphabet=st.sampled_from("./\\a\0\n \u202e"), max_size=12) | st.text(max_size=20))
@example("//" + "a" * 10)
def test_no_name_leads_outside(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "fixed"
    try:
        path = path_inside(folder, name)
    except UserError as error:
        path, message = folder / "refused", str(error)
    else:
        message = ""
    assert Path(os.path.normpath(path)).parent.is_relative_to(folder)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"n": ' + b"9" * 400 + b"}", "an integer of 400 digits"),
        (b"9" * 5000, "an integer of 5000 digits"),
        (b"\xff", r"not UTF-8 \(byte 1\)"),
        (b"{", "broken JSON"),
        ("", "broken JSON"),
    ],
)
def test_json_that_cannot_be_used_is_named_in_one_line(content: bytes | str, message: str) -> None:
    with pytest.raises(MalformedJsonError, match=message) as error:
        parse_json(content)
    assert "\n" not in str(error.value)


def test_json_is_read_with_and_without_a_byte_order_mark() -> None:
    assert parse_json(b"\xef\xbb\xbf" + b'{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}
    assert parse_json("-12") == -12


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,0123456789.eE+-nulltruefas\\ud8', max_size=60).map(str.encode))
def test_any_bytes_are_a_value_or_one_line(content: bytes) -> None:
    message = ""
    try:
        parse_json(content)
    except MalformedJsonError as error:
        message = str(error)
    assert "\n" not in message


def test_only_ordinary_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"12345")
    for name, message in {"pipe": "not an ordinary file", "loop": "cannot be read", "absent": "cannot be read"}.items():
        with pytest.raises(UserError, match=message):
            read_regular_file(tmp_path / name, 10)
    with pytest.raises(UserError, match="5 bytes, but at most 4"):
        read_regular_file(tmp_path / "file", 4)
    assert read_regular_file(tmp_path / "file", 5) == b"12345"
