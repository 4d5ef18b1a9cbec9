"""Files are replaced completely or not at all, appended durably, and locked."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from rlhf.errors import UserError
from rlhf.storage.files import (
    append_durably,
    copy_folder,
    locked,
    locked_when_free,
    replace_folder,
    write_atomically,
)


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


def test_a_copied_folder_shares_nothing_that_an_edit_would_change(tmp_path: Path) -> None:
    source, folder = tmp_path / "artifact", tmp_path / "model"
    source.mkdir()
    for name in ("config.json", "model.safetensors"):
        (source / name).write_bytes(b"as trained")
    copy_folder(source, folder)
    copy_folder(source, folder)  # a second time, over the first
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.write(b"edited")
    assert (source / "model.safetensors").read_bytes() == b"as trained"
    assert [path.stat().st_nlink for path in (*source.iterdir(), *folder.iterdir())] == [1] * 4
    (source / "vocab.json").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="a link that leads out of"):
        copy_folder(source, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_lock_is_an_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises(UserError, match="must be a lock file; remove it"), locked(tmp_path / name):
            pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_lock_file_that_was_removed_while_someone_waited_for_it_locks_nothing(tmp_path: Path) -> None:
    path, entered = tmp_path / ".lock", threading.Event()

    def hold() -> None:
        with locked(path):
            entered.set()

    waiting = threading.Thread(target=hold)
    with locked(path):
        waiting.start()
        time.sleep(0.1)
        path.unlink()
        later = ExitStack()
        later.enter_context(locked(path))
    assert not entered.wait(0.2)  # it has the lock of the removed file, but `later` that of the new one
    later.close()
    waiting.join()
    assert entered.is_set()


def test_locks_that_are_waited_for_are_held_one_at_a_time_and_removed(tmp_path: Path) -> None:
    """Although every holder removes the file that the others wait for."""
    path, counts = tmp_path / "folder" / ".lock", [0]

    def add() -> None:
        for _ in range(5):
            with locked_when_free(path, lambda: None):
                count = counts[0]
                time.sleep(0.001)
                counts[0] = count + 1

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [15]
    assert list(path.parent.iterdir()) == []


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
