"""The same files of a user's folder are read and hashed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.data.files import find_files
from rlhf.errors import UserError
from rlhf.storage import user_folders
from rlhf.storage.fingerprints import fingerprint_path
from rlhf.storage.user_folders import walk_folder


def test_the_fingerprint_changes_with_every_file_that_is_read_and_no_leftover(tmp_path: Path) -> None:
    data, linked = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (data, linked):
        folder.mkdir()
        (folder / "train.jsonl").write_text("{}\n")
    (data / "harmless").symlink_to("../elsewhere")
    before = fingerprint_path(data)
    for name in (".DS_Store", "train.jsonl~", "__MACOSX/x", ".ipynb_checkpoints/train.jsonl"):
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_text("left behind")
    assert fingerprint_path(data) == before
    for file in find_files(data):
        content = file.read_text()
        file.write_text("changed")
        assert fingerprint_path(data) != before, file
        file.write_text(content)
    assert fingerprint_path(data) == before


def test_paths_are_sorted_and_folders_that_contain_each_other_end(tmp_path: Path) -> None:
    for name in ("b", "a/x", "a/c/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "c" / "up").symlink_to("../..")
    paths = walk_folder(tmp_path)
    assert paths == sorted(paths)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == ["a/c/y", "a/x", "b"]


def test_many_links_to_each_other_are_walked_once(tmp_path: Path) -> None:
    """Ten folders with links to all of them have billions of paths."""
    folders = [tmp_path / str(number) for number in range(10)]
    for folder in folders:
        folder.mkdir()
        (folder / "file").touch()
        for other in folders:
            (folder / f"to-{other.name}").symlink_to(other)
    assert len(walk_folder(tmp_path)) == 10


def test_a_link_to_a_whole_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_folders, "MAX_ENTRIES", 100)
    for number in range(101):
        (tmp_path / str(number)).touch()
    with pytest.raises(UserError, match="more than 100 files; give a folder that holds nothing but the data"):
        walk_folder(tmp_path)


@pytest.mark.parametrize("name", ["x" * 5000, "nowhere"])
def test_a_path_without_files_has_no_fingerprint(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"no such file|cannot be read"):
        fingerprint_path(tmp_path / name)
