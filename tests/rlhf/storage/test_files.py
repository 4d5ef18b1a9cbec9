"""Files are replaced completely or not at all, appended durably, and locked."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.storage.files import append_durably, locked, replace_folder


def test_appended_data_and_the_file_name_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "rows.jsonl", []

    def sync(descriptor: int) -> None:
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), path.read_bytes()))

    monkeypatch.setattr("rlhf.storage.files.os.fsync", sync)
    append_durably(path, "one\n")
    append_durably(path, b"two\n", truncate_to=2)
    assert path.read_bytes() == b"ontwo\n"
    assert synced == [
        (str(path), b"one\n"),
        (str(tmp_path), b"one\n"),
        (str(path), b"ontwo\n"),
        (str(tmp_path), b"ontwo\n"),
    ]


def test_a_folder_is_replaced_only_by_a_finished_one(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(ZeroDivisionError), replace_folder(folder) as new:
        (new / str(1 // 0)).touch()
    assert [path.name for path in folder.iterdir()] == ["old"]
    with replace_folder(folder) as new:
        assert not list(new.iterdir()), "leftovers of the failed attempt"
        (new / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_lock_excludes_others_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path), pytest.raises(BlockingIOError), locked(path, shared=True, wait=False):
        pass
    with locked(path, shared=True), locked(path, shared=True, wait=False), pytest.raises(BlockingIOError):
        locked(path, wait=False).__enter__()
    with locked(path, wait=False):
        pass
