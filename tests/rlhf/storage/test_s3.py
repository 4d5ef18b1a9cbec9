"""Artifacts in S3 are complete or missing, whatever fails during a transfer, and never differ from their manifest."""

from __future__ import annotations

import base64
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import moto.s3.models
import pytest

from rlhf.errors import UserError
from rlhf.storage import s3_transfer
from rlhf.storage.artifacts import MANIFEST, record_files, verify
from rlhf.storage.s3 import ATTEMPTS, Bucket, parse_uri
from rlhf.storage.s3_store import S3Store, cache_limit
from rlhf.storage.s3_transfer import DamagedError, download, part_bytes, upload
from tests.support.artifacts import finish
from tests.support.s3_server import Fault, Faults, faulty, s3_server

SMALL, LARGE = "notes/rows.jsonl", "model/weights.bin"
LARGE_BYTES = 250_000
"""Three parts of the size that these tests set."""
FAULTS: list[Fault] = ["reset", "500", "503", "truncated", "wrong byte"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the part size, so that small files are transferred in parts."""
    monkeypatch.setattr(s3_transfer, "PART_BYTES", 100_000)
    monkeypatch.setattr(moto.s3.models, "S3_UPLOAD_PART_MIN_SIZE", 1)


@pytest.fixture
def uri(address: str) -> str:
    """A prefix that only this test uses."""
    assert address
    bucket = f"bucket-{uuid4().hex}"
    client().create_bucket(Bucket=bucket)
    return f"s3://{bucket}/team/rlhf"


@pytest.fixture
def faults(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """Direct clients to a proxy, and skip the waits between attempts."""
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    with faulty(address) as proxy:
        yield proxy


def client() -> Any:
    return boto3.client("s3")


def machine(uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """The store of a machine with its cache in `folder`."""
    monkeypatch.setenv("RLHF_CACHE", str(folder))
    return S3Store(uri)


def make_artifact(store: S3Store, fingerprint: str = "f1", *, large: int = LARGE_BYTES, seed: int = 1) -> Path:
    """Make a finished artifact of the stage `train` in the cache of `store`."""
    folder = store.folder("train", fingerprint)
    for name, size in {SMALL: 1000, LARGE: large, "empty": 0}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(random.Random(seed).randbytes(size))
    finish(folder, "train", fingerprint, seed=seed)
    return folder


def same_files(folder: Path, copy: Path) -> bool:
    return all((folder / name).read_bytes() == (copy / name).read_bytes() for name in (SMALL, LARGE, "empty", MANIFEST))


@pytest.fixture
def first(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    return machine(uri, tmp_path / "first", monkeypatch)


@pytest.fixture
def second(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    return machine(uri, tmp_path / "second", monkeypatch)


def test_another_machine_reads_a_published_artifact(first: S3Store, second: S3Store) -> None:
    folder = make_artifact(first)
    assert second.verify("train", "f1") != []
    assert second.manifest("train", "f1") is None
    first.publish("train", "f1")
    assert second.verify("train", "f1") == []
    copy = second.folder("train", "f1")
    with second.local_copies([copy / "model"]):
        assert same_files(folder, copy)
    assert verify(copy) == []


def test_a_uri_names_a_bucket_and_a_prefix() -> None:
    assert parse_uri("s3://models/team/rlhf/") == ("models", "team/rlhf")
    assert parse_uri("s3://models") == ("models", "")
    with pytest.raises(UserError, match="s3://bucket/prefix"):
        parse_uri("s3://")


def test_parts_grow_if_there_would_be_more_than_s3_allows() -> None:
    assert part_bytes(100_000 * 10_000) == 100_000
    assert part_bytes(100_000 * 10_000 + 1) == 100_001


def test_everything_is_encrypted_and_nothing_is_public(first: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    make_artifact(first)
    first.publish("train", "f1")
    monkeypatch.setenv("RLHF_KMS_KEY", "alias/ours")
    make_artifact(first, "f2")
    first.publish("train", "f2")
    for entry in client().list_objects_v2(Bucket=first.bucket.name)["Contents"]:
        location = {"Bucket": first.bucket.name, "Key": entry["Key"]}
        attributes = client().head_object(**location)
        expected = ("aws:kms", "alias/ours") if "/f2/" in entry["Key"] else ("AES256", None)
        assert (attributes["ServerSideEncryption"], attributes.get("SSEKMSKeyId")) == expected
        if not entry["Key"].endswith(LARGE):  # moto has no access list of multipart uploads
            [grant] = client().get_object_acl(**location)["Grants"]
            assert grant["Grantee"]["Type"] == "CanonicalUser"  # the owner


def test_s3_receives_the_sha256_of_every_upload(first: S3Store) -> None:
    folder = make_artifact(first)
    first.publish("train", "f1")
    location = {"Bucket": first.bucket.name, "Key": first.bucket.key(f"artifacts/train/f1/{SMALL}")}
    attributes = client().head_object(**location, ChecksumMode="ENABLED")
    assert base64.b64decode(attributes["ChecksumSHA256"]).hex() == record_files(folder)[SMALL].sha256


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", [SMALL, LARGE, MANIFEST])
def test_a_download_survives_faults(first: S3Store, second: S3Store, faults: Faults, fault: Fault, name: str) -> None:
    folder = make_artifact(first)
    first.publish("train", "f1")
    if name == MANIFEST and fault == "wrong byte":
        pytest.skip("a manifest that is not valid JSON counts as unfinished: the next test")
    faults.times(fault, 2, lambda method, path: method == "GET" and path.endswith(name))
    copy = second.folder("train", "f1")
    with second.local_copies([copy]):
        assert same_files(folder, copy)
    assert faults.injected == 2


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["reset", "500", "503", "truncated"])
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_an_upload_survives_faults(first: S3Store, second: S3Store, faults: Faults, fault: Fault, method: str) -> None:
    folder = make_artifact(first)
    faults.times(fault, 2, lambda request_method, path: request_method == method and "train" in path)
    first.publish("train", "f1")
    assert faults.injected == 2
    copy = second.folder("train", "f1")
    with second.local_copies([copy]):
        assert same_files(folder, copy)


@pytest.mark.parametrize("name", [SMALL, LARGE])
def test_a_permanently_wrong_byte_is_never_used(first: S3Store, second: S3Store, faults: Faults, name: str) -> None:
    folder = make_artifact(first)
    first.publish("train", "f1")
    faults.plan = lambda method, path: "wrong byte" if method == "GET" and path.endswith(name) else None
    copy = second.folder("train", "f1")
    with pytest.raises(UserError, match=rf"{name}: sha256 differs.*rebuild"), second.local_copies([copy]):
        raise AssertionError("used")
    assert not (copy / MANIFEST).exists()
    assert not (copy / name).exists()
    assert second.verify("train", "f1") != []  # so the stage runs again
    faults.plan = lambda _method, _path: None
    first.publish("train", "f1")  # or a machine with an intact copy publishes it again
    with second.local_copies([copy]):
        assert same_files(folder, copy)


def test_a_failed_upload_counts_as_unfinished(first: S3Store, second: S3Store, faults: Faults) -> None:
    make_artifact(first)
    faults.plan = lambda method, path: "500" if method == "PUT" and "partNumber=2" in path else None
    with pytest.raises(UserError, match="S3 is unavailable"):
        first.publish("train", "f1")
    faults.plan = lambda _method, _path: None
    assert second.manifest("train", "f1") is None
    assert "Uploads" not in client().list_multipart_uploads(Bucket=first.bucket.name)
    assert verify(first.folder("train", "f1")) == []
    first.publish("train", "f1")
    assert second.verify("train", "f1") == []


UPLOAD = """
import sys
from rlhf.storage import s3_transfer
s3_transfer.PART_BYTES = 100_000
from rlhf.storage.s3_store import S3Store
S3Store(sys.argv[1]).publish("train", "f1")
"""


@pytest.mark.slow
@pytest.mark.parametrize("request_path", ["partNumber=3", MANIFEST])
def test_a_kill_during_an_upload_costs_only_the_files_in_progress(
    first: S3Store, second: S3Store, address: str, request_path: str
) -> None:
    make_artifact(first)
    with faulty(address) as faults:
        faults.plan = lambda method, path: "hang" if method == "PUT" and request_path in path else None
        process = subprocess.Popen(
            [sys.executable, "-c", UPLOAD, first.bucket.uri],
            env={**os.environ, "RLHF_CACHE": str(first.workspace.parent)},
        )
        deadline = time.monotonic() + 60
        while not faults.injected:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert second.manifest("train", "f1") is None
    with pytest.raises(UserError, match="not finished"), second.local_copies([second.folder("train", "f1")]):
        raise AssertionError("used")
    with faulty(address) as faults:
        first.publish("train", "f1")
        uploaded = [path for method, path in faults.requests if method == "PUT"]
        assert any(LARGE in path for path in uploaded) == (request_path != MANIFEST)
    assert "Uploads" not in client().list_multipart_uploads(Bucket=first.bucket.name)
    assert second.verify("train", "f1") == []


def test_only_the_damaged_files_of_a_copy_are_downloaded_again(first: S3Store, second: S3Store, faults: Faults) -> None:
    folder = make_artifact(first)
    first.publish("train", "f1")
    copy = second.folder("train", "f1")
    with second.local_copies([copy]):
        pass
    (copy / SMALL).write_bytes(b"x" * 1000)
    faults.requests.clear()
    with second.local_copies([copy]):
        assert same_files(folder, copy)
    downloaded = [path for method, path in faults.requests if method == "GET" and "list-type" not in path]
    assert not any(LARGE in path for path in downloaded)
    assert any(SMALL in path for path in downloaded)


def test_a_missing_object_is_named(first: S3Store, second: S3Store) -> None:
    make_artifact(first)
    first.publish("train", "f1")
    first.bucket.remove([f"artifacts/train/f1/{SMALL}"])
    [problem] = second.verify("train", "f1")
    assert problem.startswith(f"{first.bucket.uri}/artifacts/train/f1/{SMALL}: no bytes")
    first.publish("train", "f1")
    assert second.verify("train", "f1") == []


def test_a_finished_artifact_is_never_replaced_and_a_rebuilt_one_replaces_a_damaged_one(
    first: S3Store, second: S3Store
) -> None:
    original = make_artifact(first)
    assert first.publish("train", "f1")
    assert first.publish("train", "f1")  # the same one again
    own = make_artifact(second, seed=2)
    assert not second.publish("train", "f1")
    with second.local_copies([own]):
        assert same_files(own, original)
    first.bucket.remove([f"artifacts/train/f1/{SMALL}"])
    rebuilt = make_artifact(first, seed=2)
    assert first.publish("train", "f1")
    with second.local_copies([own]):
        assert same_files(own, rebuilt)


def test_a_users_file_or_folder_is_available_to_every_machine(first: S3Store, second: S3Store, tmp_path: Path) -> None:
    (tmp_path / "data" / "more").mkdir(parents=True)
    (tmp_path / "data" / MANIFEST).write_text("the user's own")
    (tmp_path / "data" / "more" / "rows.jsonl").write_text("{}\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "rows.jsonl").write_text("[]\n")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    folder = first.upload_input(tmp_path / "data", "abc")
    file = first.upload_input(tmp_path / "data" / "more" / "rows.jsonl", "def")
    assert folder.name == "data"
    copies = [second.workspace / path.relative_to(first.workspace) for path in (folder, file)]
    with second.local_copies(copies):
        assert (copies[0] / MANIFEST).read_text() == "the user's own"
        assert (copies[0] / "more" / "rows.jsonl").read_text() == copies[1].read_text() == "{}\n"
        assert (copies[0] / "linked" / "rows.jsonl").read_text() == "[]\n"


def interrupt(store: S3Store, text: str) -> Path:
    """Write the files of a stage that was interrupted after a checkpoint."""
    folder = store.folder("train", "f1")
    (folder / "checkpoints" / "1").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / "1" / "state").write_text(text)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def test_another_machine_resumes_from_the_checkpoints(first: S3Store, second: S3Store) -> None:
    interrupt(first, "one")
    first.save_unfinished("train", "f1")
    second.restore_unfinished("train", "f1")
    copy = second.folder("train", "f1")
    assert (copy / "checkpoints" / "1" / "state").read_text() == (copy / "metrics.jsonl").read_text() == "one"
    assert not (copy / MANIFEST).exists()
    interrupt(second, "two")
    second.restore_unfinished("train", "f1")  # it keeps its own newer files
    assert (copy / "metrics.jsonl").read_text() == "two"
    second.save_unfinished("train", "f1")
    first.restore_unfinished("train", "f1")
    assert (first.folder("train", "f1") / "metrics.jsonl").read_text() == "two"
    make_artifact(first)
    first.publish("train", "f1")
    assert first.bucket.sizes("unfinished") == {}


def test_half_saved_checkpoints_are_not_used(first: S3Store, second: S3Store, faults: Faults) -> None:
    interrupt(first, "one")
    faults.plan = lambda method, path: "500" if method == "PUT" and path.endswith("state") else None
    with pytest.raises(UserError):
        first.save_unfinished("train", "f1")
    faults.plan = lambda _method, _path: None
    second.restore_unfinished("train", "f1")
    assert not second.folder("train", "f1").exists()


def test_the_least_recently_used_is_evicted_but_nothing_in_use_or_unpublished(
    first: S3Store, second: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fingerprint in ("f1", "f2", "f3"):
        make_artifact(first, fingerprint, large=10**6)
        first.publish("train", fingerprint)
    make_artifact(second, "own", large=10**6)
    copies = {name: second.folder("train", name) for name in ("f1", "f2", "f3", "own")}
    monkeypatch.setenv("RLHF_CACHE_GB", "0.0025")
    with second.local_copies([copies["f1"]]):
        for name in ("f2", "f3"):
            with second.local_copies([copies[name]]):
                time.sleep(0.02)
        assert {name for name, copy in copies.items() if copy.exists()} == {"f1", "f3", "own"}
    monkeypatch.setenv("RLHF_CACHE_GB", "0")
    second.evict()
    assert {name for name, copy in copies.items() if copy.exists()} == {"own"}
    with second.local_copies([copies["f2"]]):
        assert same_files(copies["f2"], first.folder("train", "f2"))


def test_verifying_names_the_object_with_a_wrong_byte(
    first: S3Store, second: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_transfer, "back_off", lambda _attempt: None)
    make_artifact(first)
    first.publish("train", "f1")
    first.bucket.write("artifacts/train/f2/metrics.jsonl", b"half")
    name = f"{first.bucket.uri}/artifacts/train/f1"
    assert second.verify_all() == {name: [], f"{first.bucket.uri}/artifacts/train/f2": None}
    first.bucket.write(f"artifacts/train/f1/{SMALL}", b"x" * 1000)
    assert second.verify_all()[name] == [f"{name}/{SMALL}: sha256 differs from the manifest"]
    assert not list(second.workspace.glob(".verify-*"))


def test_errors_that_a_user_can_fix_are_one_line(uri: str, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"s3://no-such-bucket/x: there is no bucket no-such-bucket; create it"):
        Bucket("s3://no-such-bucket/x").write("a", b"")
    faults.plan = lambda method, _path: "403" if method == "PUT" else None
    with pytest.raises(UserError, match=r"access denied \(PutObject\); the role needs .*s3:PutObject"):
        Bucket(uri).write("a", b"")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        with pytest.raises(UserError, match=r"does not answer .*AWS_ENDPOINT_URL"):
            Bucket(uri).write("a", b"")
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(UserError, match=r"no AWS credentials .*AWS_PROFILE"):
            Bucket(uri).write("a", b"")


def test_retries_end(first: S3Store, faults: Faults, tmp_path: Path) -> None:
    folder = make_artifact(first)
    files = record_files(folder)
    upload(first.bucket, "x", {SMALL: (folder / SMALL, files[SMALL])})
    faults.requests.clear()
    faults.plan = lambda method, _path: "wrong byte" if method == "GET" else None
    with pytest.raises(DamagedError, match=SMALL):
        download(first.bucket, "x", {SMALL: files[SMALL]}, tmp_path / "copy")
    assert len(faults.requests) == ATTEMPTS
    assert not (tmp_path / "copy" / s3_transfer.INCOMING).exists()


@pytest.mark.parametrize("limit", ["nan", "-1", "many", "10 GB"])
def test_a_limit_of_the_cache_that_is_no_size_evicts_nothing(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setenv("RLHF_CACHE_GB", limit)
    with pytest.raises(UserError, match=r"RLHF_CACHE_GB \('.*'\) must be a number of gigabytes, 0 or more"):
        cache_limit()


@pytest.mark.parametrize(("limit", "size"), [("0", 0), ("0.5", 5e8), ("", 200e9), ("inf", float("inf"))])
def test_the_limit_of_the_cache_is_in_gigabytes(monkeypatch: pytest.MonkeyPatch, limit: str, size: float) -> None:
    monkeypatch.setenv("RLHF_CACHE_GB", limit)
    assert cache_limit() == size
