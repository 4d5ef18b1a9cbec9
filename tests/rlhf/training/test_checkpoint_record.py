"""Checkpoints whose files were torn, changed, replaced or put there from elsewhere are never taken for whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf.training.checkpoint_record import RECORD, find_damage, read_record, write_record
from tests.support.damage import flip_a_bit, replace_by_pipe


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A complete checkpoint of the stage's output `tmp_path`, with a file below a folder and one next to it."""
    return make_checkpoint(tmp_path)


def make_checkpoint(output: Path) -> Path:
    folder = output / "checkpoints" / "step-3"
    (folder / "deep").mkdir(parents=True)
    (folder / "weights").write_bytes(bytes(range(256)))
    (folder / "deep" / "state").write_text("3")
    (folder.parent / "best").write_text("best")
    write_record(folder, output, 3, beside=[folder.parent / "best"])
    return folder


def damage_of(folder: Path) -> str | None:
    record = read_record(folder, folder.parent.parent)
    return "incomplete" if record is None else find_damage(folder, record)


def replace_by_link(path: Path) -> None:
    """The content stays the same; but whoever can change the target could change it after the check."""
    target = path.with_name(".elsewhere")
    path.rename(target)
    path.symlink_to(target)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped bit": flip_a_bit,
    "torn": lambda path: os.truncate(path, path.stat().st_size - 1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "missing": Path.unlink,
    "pipe": replace_by_pipe,
    "link": replace_by_link,
    "folder": replace_by_folder,
}


def test_an_intact_checkpoint_is_whole(checkpoint: Path, tmp_path: Path) -> None:
    assert damage_of(checkpoint) is None
    record = read_record(checkpoint, tmp_path)
    assert record is not None
    assert record.step == 3
    assert set(record.files) == {"weights", "deep/state"}
    (checkpoint / ".nfs0001").write_text("what network file systems leave")
    assert damage_of(checkpoint) is None


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["weights", "deep/state", "../best", RECORD])
def test_a_damaged_file_is_noticed(checkpoint: Path, file: str, damage: str) -> None:
    DAMAGES[damage](checkpoint / file)
    if not (file == RECORD and damage in ("longer", "link")):  # padding after JSON, or the same record elsewhere
        assert damage_of(checkpoint) is not None


def test_a_foreign_file_is_noticed(checkpoint: Path) -> None:
    (checkpoint / "deep" / "optimizer.pt").write_text("x")
    assert damage_of(checkpoint) == "'deep/optimizer.pt' does not belong to it"


def test_a_checkpoint_of_another_run_or_behind_a_link_is_not_taken(checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "checkpoints", other / "checkpoints")
    assert read_record(other / "checkpoints" / "step-3", other) is None
    (tmp_path / "checkpoints" / "step-4").symlink_to(checkpoint)
    assert read_record(tmp_path / "checkpoints" / "step-4", tmp_path) is None


def test_a_record_that_names_files_elsewhere_is_none(checkpoint: Path, tmp_path: Path) -> None:
    whole = json.loads((checkpoint / RECORD).read_text())
    for name in ("../../secret", "/etc/hostname", "", "a/../b"):
        for key in ("files", "beside"):
            record = whole | {key: {name: {"sha256": "0" * 64, "size": 0}}}
            (checkpoint / RECORD).write_text(json.dumps(record))
            assert read_record(checkpoint, tmp_path) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose record the fuzz tests write again and again."""
    return make_checkpoint(tmp_path_factory.mktemp("run"))


@FUZZ
@given(st.sampled_from(["run", "step", "files", "beside", None]), JSON)
def test_any_record_is_read_or_counts_as_incomplete(shared: Path, key: str | None, value: object) -> None:
    output = shared.parent.parent
    write_record(shared, output, 3, beside=[shared.parent / "best"])
    whole = json.loads((shared / RECORD).read_text())
    (shared / RECORD).write_text(json.dumps(value if key is None else whole | {key: value}))
    if damage_of(shared) is None:  # `step` is compared with the name of the folder by whoever reads it
        assert key in ("step", "beside") or value == whole.get(key or "")


@FUZZ
@given(st.binary(max_size=40) | st.integers(0, 600).map(lambda length: b"[" * length))
def test_any_bytes_as_a_record_count_as_incomplete(shared: Path, content: bytes) -> None:
    (shared / RECORD).write_bytes(content)
    assert damage_of(shared) == "incomplete"
