"""Records of finished stages are read as data: whatever one says of itself, nothing is imported, called or run."""

from __future__ import annotations

import base64
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.config import RunConfig
from rlhf.errors import UserError
from rlhf.storage.s3 import Bucket
from rlhf.storage.s3_store import open_s3_store
from tasks import execute
from tasks.records import MAX_RECORD_BYTES, RecordStorage, StageRecord, parse_record
from tasks.run import Run
from tests.support.fake_launcher import FakeLauncher, final_states
from tests.support.s3_server import shared_workspace

KEY = f"train_sft-{'1' * 16}"
TOUCH = "tests.tasks.test_records.Touching"


class Touching:
    """An object that makes a file when it is unpickled or called."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def hostile_records(target: Path) -> dict[str, bytes]:
    """Records that make `target` if a reader believes what they say of themselves."""
    pickled = base64.encodebytes(pickle.dumps(Touching(str(target)))).decode()
    command = f"touch {target}"
    posix = {"__class__": "subprocess.getoutput", "data": command}

    def record(serializer: object, result: object) -> bytes:
        metadata = {"storage_key": KEY, "serializer": serializer}
        return json.dumps({"metadata": metadata, "result": result}).encode()

    return {
        "pickle": record({"type": "pickle", "picklelib": "pickle"}, pickled),
        "cloudpickle": record({"type": "pickle", "picklelib": "cloudpickle"}, pickled),
        "no serializer": json.dumps({"metadata": {"storage_key": KEY}, "result": pickled}).encode(),
        "old layout": json.dumps({"serializer": {"type": "pickle"}, "data": pickled}).encode(),
        "decoder": record({"type": "json", "object_decoder": "os.mkdir"}, json.dumps({str(target): 1})),
        "json library": record({"type": "json", "jsonlib": TOUCH.rpartition(".")[0]}, json.dumps(command)),
        "class": record({"type": "json"}, json.dumps(posix)),
        "exception": record({"type": "json"}, json.dumps({"__exc_type__": "builtins.SystemExit", "message": "1"})),
        "bare exception": json.dumps({"__exc_type__": "builtins.KeyboardInterrupt", "message": "1"}).encode(),
        "bare class": json.dumps(posix).encode(),
        "compressed": record(
            {"type": "compressed", "serializer": {"type": "pickle"}, "compressionlib": "bz2"}, pickled
        ),
    }


def loads(_content: str, **_options: object) -> None:
    """Stands for the JSON library that a hostile record names."""
    raise AssertionError("a record chose the library that reads it")


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> FakeLauncher:
    fake = FakeLauncher()
    monkeypatch.setattr(execute, "launch_stage", fake.run)
    return fake


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("kind", ["pickle", "bare exception"])
def test_a_hostile_record_in_a_folder_is_as_good_as_none(launcher: FakeLauncher, tmp_path: Path, kind: str) -> None:
    (tmp_path / "data.jsonl").write_text("{}\n")

    def states() -> list[str]:
        return final_states(lambda: Run(RunConfig(), tmp_path), tmp_path / "data.jsonl")

    states()
    for path in (tmp_path / "records").iterdir():
        path.write_bytes(hostile_records(tmp_path / "touched")[kind])
    assert states() == ["Completed", "Completed"]  # the intact artifacts are used
    assert states() == ["Cached", "Cached"]  # and new records replace the hostile ones
    assert launcher.started == ["first", "second"]
    assert not (tmp_path / "touched").exists()


@pytest.mark.usefixtures("prefect_server")
def test_a_hostile_record_in_s3_is_as_good_as_none(
    launcher: FakeLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.jsonl").write_text("{}\n")
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    with shared_workspace() as uri:

        def states() -> list[str]:
            open_s3_store.cache_clear()
            return final_states(lambda: Run.open(RunConfig(), uri), tmp_path / "data.jsonl")

        states()
        bucket = Bucket(uri)
        for name in bucket.sizes("records"):
            bucket.write(f"records/{name}", hostile_records(tmp_path / "touched")["pickle"])
        assert states() == ["Completed", "Completed"]
        assert launcher.started == ["first", "second"]
    assert not (tmp_path / "touched").exists()


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "records").mkdir()
    yield tmp_path
    assert not (tmp_path / "touched").exists()


def test_no_hostile_record_is_a_record(workspace: Path) -> None:
    for kind, content in hostile_records(workspace / "touched").items():
        assert parse_record(content, KEY) is None, kind


RECORD = StageRecord(
    stage="train_sft", fingerprint="1" * 16, uri=f"artifacts/train_sft/{'1' * 16}", seconds=1.5, metrics={"loss": 0.5}
)


def stored(record: dict[str, Any]) -> bytes:
    """A record as Prefect writes it."""
    metadata = {"storage_key": KEY, "serializer": {"type": "json"}, "prefect_version": "3.8.8"}
    result = json.dumps({"__class__": "tasks.records.StageRecord", "data": record})
    return json.dumps({"metadata": metadata, "result": result}).encode()


def test_a_record_of_another_stage_or_of_another_form_is_none() -> None:
    values = RECORD.model_dump()
    assert parse_record(stored(values), KEY) == RECORD
    assert parse_record(stored(values), f"train_sft-{'2' * 16}") is None
    wrong: list[dict[str, Any]] = [
        {"stage": "train_ppo"},
        {"fingerprint": "../../x"},
        {"seconds": "a while"},
        {"metrics": {"__class__": 1.0}},
        {"metrics": {"loss": "low"}},
        {"extra": 1},
        {"uri": "../elsewhere"},
    ]
    for change in wrong:
        assert parse_record(stored(values | change), KEY) is None, change
    assert parse_record(b" " * (MAX_RECORD_BYTES + 1) + stored(values), KEY) is None


def test_what_prefect_gets_of_a_record_was_written_by_this_program(workspace: Path) -> None:
    """Only the values of a record pass, not its description of how to read it."""
    content = json.loads(stored(RECORD.model_dump()))
    content["metadata"] |= {"serializer": {"type": "json", "jsonlib": "os"}, "expiration": "soon"}
    (workspace / "records" / KEY).write_bytes(json.dumps(content).encode())
    storage = RecordStorage(workspace=str(workspace))
    read = json.loads(storage.read(KEY))
    assert read["metadata"] == {"storage_key": KEY, "serializer": {"type": "json"}}
    assert json.loads(read["result"]) == {"__class__": "tasks.records.StageRecord", "data": RECORD.model_dump()}


def test_only_records_are_read_and_written(workspace: Path) -> None:
    storage = RecordStorage(workspace=str(workspace))
    (workspace / "records" / "linked").symlink_to("/etc/hostname")
    os.mkfifo(workspace / "records" / f"train_sft-{'2' * 16}")
    (workspace / "records" / f"train_sft-{'3' * 16}").symlink_to("/etc/hostname")
    for name in ("../x", "/etc/hostname", "linked", "a" * 32, KEY, f"train_sft-{'2' * 16}", f"train_sft-{'3' * 16}"):
        with pytest.raises(ValueError, match="no such record"):
            storage.read(name)
    for name in ("a" * 32, "../x"):
        storage.write(name, b"the error of a failed stage")
        assert not (workspace / "records" / name).exists()
    (workspace / "elsewhere").mkdir()
    (workspace / "linked" / "records").parent.mkdir()
    (workspace / "linked" / "records").symlink_to(workspace / "elsewhere")
    with pytest.raises(UserError, match="a link that leads out"):
        RecordStorage(workspace=str(workspace / "linked")).write(KEY, b"")
    storage.write(KEY, stored(RECORD.model_dump()))
    assert storage.read(KEY)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(st.binary(max_size=80) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_content_is_a_record_or_none(content: bytes) -> None:
    assert parse_record(content, KEY) is None


@settings(max_examples=60)
@given(st.sampled_from(sorted(RECORD.model_dump())), json_values)
def test_any_value_in_a_record_is_taken_or_makes_it_none(field: str, value: object) -> None:
    record = parse_record(stored(RECORD.model_dump() | {field: value}), KEY)
    assert record is None or (record.stage, record.fingerprint) == (RECORD.stage, RECORD.fingerprint)
