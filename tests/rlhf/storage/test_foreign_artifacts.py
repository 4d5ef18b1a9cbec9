"""Manifests, stat caches and links that others wrote: no byte is written or read outside the artifact's folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rlhf.errors import UserError
from rlhf.storage import s3_transfer
from rlhf.storage.artifacts import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    STAT_CACHE,
    FileRecord,
    Store,
    parse_manifest,
    read_manifest,
    record_files,
    verify,
)
from rlhf.storage.fingerprints import fingerprint_path
from rlhf.storage.s3 import Bucket, TooLargeError
from rlhf.storage.s3_store import S3Store
from rlhf.storage.s3_transfer import DamagedError
from tests.support.artifacts import DEFAULTS, finish
from tests.support.s3_server import shared_workspace

CONTENT = b"taken over"
RECORD = {"sha256": hashlib.sha256(CONTENT).hexdigest(), "size": len(CONTENT)}
OUTSIDE = ["../../../../evil", "/etc/evil", "a/../../evil", "..", "a\\b", "a\nb", "", "./a", "a//b"]


def manifest(**changes: object) -> dict[str, Any]:
    """The content of a manifest of the stage `train`."""
    return {"stage": "train", "fingerprint": "f1", "files": {}, **DEFAULTS, **changes}


def encoded(**changes: object) -> bytes:
    return json.dumps(manifest(**changes)).encode()


def everything_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_manifest_that_names_a_file_outside_its_artifact_is_none(name: str) -> None:
    assert parse_manifest(encoded(files={"ok.txt": RECORD})) is not None
    assert parse_manifest(encoded(files={name: RECORD})) is None


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        encoded(config={"deep": 0}).replace(b"0}", b"[" * 5000 + b"]" * 5000 + b"}"),
        encoded(seed=0).replace(b'"seed": 0', b'"seed": ' + b"9" * 10_000),
        encoded(files={"a": RECORD | {"size": -1}}),
        encoded(files={"a": RECORD | {"size": 10**18}}),
        encoded(files={"a": RECORD | {"sha256": "../x"}}),
        encoded(finished_at="yesterday"),
        encoded(seconds=float("nan")),
        b"\xff" + encoded(),
        b" " * MAX_MANIFEST_BYTES + encoded(),
        b"",
        None,
    ],
)
def test_a_manifest_of_absurd_content_is_none(content: bytes | None) -> None:
    assert parse_manifest(content) is None


def test_a_metric_that_is_no_number_survives_in_a_manifest(tmp_path: Path) -> None:
    finish(tmp_path, "train", "f1", metrics={"loss": float("nan"), "ratio": float("inf")})
    stored = read_manifest(tmp_path)
    assert stored is not None
    assert str(stored.metrics) == "{'loss': nan, 'ratio': inf}"


def test_files_that_are_no_manifest_neither_block_nor_count(tmp_path: Path) -> None:
    for kind in ("pipe", "loop", "folder"):
        (tmp_path / kind).mkdir()
    os.mkfifo(tmp_path / "pipe" / MANIFEST)
    (tmp_path / "loop" / MANIFEST).symlink_to(MANIFEST)
    (tmp_path / "folder" / MANIFEST).mkdir()
    for kind in ("pipe", "loop", "folder"):
        assert read_manifest(tmp_path / kind) is None
        assert verify(tmp_path / kind) == [f"{tmp_path / kind / MANIFEST}: missing or not intact"]


def test_links_in_an_artifact_are_not_followed_out_of_it(tmp_path: Path) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "artifacts" / "train" / "f1"
    folder.mkdir(parents=True)
    secret.write_bytes(CONTENT)
    (folder / "rows.jsonl").symlink_to(secret)
    with pytest.raises(UserError, match=r"rows\.jsonl: a link that leads out of"):
        record_files(folder)
    (folder / MANIFEST).write_bytes(encoded(files={"rows.jsonl": RECORD}))  # the bytes are those of the manifest
    [problem] = verify(folder)
    assert "a link that leads out of" in problem
    (folder / "rows.jsonl").unlink()
    (folder / "real.jsonl").write_bytes(CONTENT)
    (folder / "rows.jsonl").symlink_to("real.jsonl")
    assert set(record_files(folder)) == {"real.jsonl", "rows.jsonl"}
    assert verify(folder) == []


def test_parts_of_a_path_from_results_are_plain_names(tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    for stage, fingerprint in (("../x", "f1"), ("train", ".."), ("train", "/etc"), ("train", "a/b"), ("", "f1")):
        with pytest.raises(UserError, match="is not the plain name of a folder"):
            store.folder(stage, fingerprint)
    with pytest.raises(UserError, match="is not the plain name of a folder"):
        store.run_folder("../other")


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_manifest_or_none(content: bytes) -> None:
    assert parse_manifest(content) is None


@given(st.sampled_from(sorted(manifest())), json_values)
def test_any_value_in_a_manifest_is_taken_or_makes_it_none(field: str, value: object) -> None:
    parsed = parse_manifest(encoded(**{field: value}))
    assert parsed is None or all(not Path(name).is_absolute() and ".." not in name.split("/") for name in parsed.files)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact") / "folder"
    folder.mkdir()
    (folder / "a").write_bytes(CONTENT)
    finish(folder, "train", "f1")
    return folder


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()))
@example(b'{"a": [10, 0, "x"]}')
@example(b"[" * 100_000)
def test_any_stat_cache_leaves_an_intact_artifact_intact(artifact: Path, content: bytes) -> None:
    (artifact / STAT_CACHE).write_bytes(content)
    assert verify(artifact) == []


names = st.text(alphabet=st.sampled_from("./\\a\n\0~"), max_size=8) | st.text(max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(names, st.just(RECORD), max_size=3))
@example({"../outside": RECORD})
def test_no_manifest_makes_a_verification_read_or_write_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, object]
) -> None:
    folder = tmp_path_factory.mktemp("verify") / "folder"
    folder.mkdir()
    (folder.parent / "outside").write_bytes(CONTENT)
    (folder / MANIFEST).write_bytes(encoded(files=files))
    before = everything_below(folder.parent)
    problems = verify(folder)
    assert bool(problems) == bool(files)
    assert not any("\n" in problem for problem in problems)
    after = everything_below(folder.parent)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) <= {str(folder / STAT_CACHE)}


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    with shared_workspace() as workspace:
        yield workspace


@pytest.fixture
def store(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(s3_transfer, "back_off", lambda _attempt: None)
    return S3Store(uri)


@pytest.mark.parametrize("part", ["artifacts/train/f1", "inputs/f1/data", "unfinished/train/f1"])
def test_no_download_writes_outside_the_cache(store: S3Store, tmp_path: Path, part: str) -> None:
    target = tmp_path / "evil"
    for name in (str(target), "../../../../../evil", "a/../../../../../../evil"):
        files = {name: RECORD}
        store.bucket.write(f"{part}/{MANIFEST}", encoded(stage=part.partition("/")[0], files=files))
        client, location = store.bucket.client, store.bucket.object(part)
        client.put_object(Bucket=location["Bucket"], Key=f"{location['Key']}/{name}", Body=CONTENT)
        with pytest.raises(UserError, match="is not finished"), store.local_copies([store.workspace / part]):
            raise AssertionError("used")
        store.restore_unfinished("train", "f1")
        assert store.verify("train", "f1") != []
    assert not target.exists()
    assert [] not in store.verify_all().values()
    assert everything_below(tmp_path).keys() == everything_below(tmp_path / "cache").keys()


def test_a_link_in_the_cache_is_not_written_through(store: S3Store, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder = store.folder("train", "linked")
    folder.mkdir(parents=True)
    (folder / "model").symlink_to(tmp_path / "elsewhere")
    store.bucket.write(f"artifacts/train/linked/{MANIFEST}", encoded(fingerprint="linked", files={"model/a": RECORD}))
    store.bucket.write("artifacts/train/linked/model/a", CONTENT)
    with pytest.raises(UserError, match="a link that leads out of"), store.local_copies([folder]):
        raise AssertionError("used")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_odd_keys_are_named_without_their_control_characters(store: S3Store) -> None:
    client, bucket = store.bucket.client, store.bucket
    client.put_object(Bucket=bucket.name, Key=f"{bucket.key('artifacts')}/a\x1b[2J/f1/{MANIFEST}", Body=b"{}")
    found = {name: problems for name, problems in store.verify_all().items() if "2J" in name}
    assert found == {f"{bucket.uri}/'artifacts/a\\x1b[2J/f1'": ["not a plain path; remove these objects"]}


def test_only_runs_with_plain_names_are_listed(store: S3Store) -> None:
    client, bucket = store.bucket.client, store.bucket
    for name in ("good", "\x1b[2J", "a\\b"):
        client.put_object(Bucket=bucket.name, Key=f"{bucket.key(name)}/results.json", Body=b"{}")
    assert store.runs("results.json") == ["good"]


def test_a_published_file_of_any_bytes_is_downloaded_as_it_is(store: S3Store) -> None:
    store.bucket.write("run/results.json", b"\xff\xfe")
    folder = store.run_folder("run")
    store.pull(folder, ["results.json"])
    assert (folder / "results.json").read_bytes() == b"\xff\xfe"


def test_an_object_that_is_too_large_is_not_read_into_memory(
    store: S3Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store.bucket.write("some/big", b"x" * 1000)
    with pytest.raises(TooLargeError, match="1000 bytes, but at most 999"):
        Bucket(store.bucket.uri).read("some/big", 999)
    store.bucket.write(f"artifacts/train/big/{MANIFEST}", encoded(fingerprint="big"))
    monkeypatch.setattr("rlhf.storage.s3_store.MAX_MANIFEST_BYTES", 100)
    assert store.manifest("train", "big") is None
    assert "missing or not intact" in store.verify("train", "big")[0]
    files = {"big": record_of(b"x" * 10)}
    with pytest.raises(DamagedError, match="big: sha256 differs"):
        s3_transfer.download(store.bucket, "some", files, tmp_path / "copy")


def record_of(content: bytes) -> FileRecord:
    return FileRecord(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def test_a_users_file_with_a_name_that_no_manifest_may_contain_is_named(store: S3Store, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a\nb.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"data/a\\nb\.jsonl'.*rename"):
        store.upload_input(tmp_path / "data", fingerprint_path(tmp_path / "data"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(manifest())), json_values)
def test_any_manifest_in_s3_is_used_or_refused_in_one_line(store: S3Store, field: str, value: object) -> None:
    store.bucket.write(f"artifacts/train/f2/{MANIFEST}", encoded(**{field: value}))
    folder = store.folder("train", "f2")
    message = ""
    try:
        with store.local_copies([folder]):
            assert verify(folder) == []
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    assert {path.name for path in store.workspace.parent.parent.iterdir()} <= {"cache"}
