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
from rlhf.storage.s3_store import S3Store
from rlhf.storage.s3_transfer import DamagedError, download, part_bytes, upload
from tests.support.artifacts import finish
from tests.support.s3_server import Fault, Faults, faulty, s3_server

SMALL, LARGE = "notes/rows.jsonl", "model/weights.bin"
LARGE_BYTES = 250_000
"""Three parts of the size that these tests set."""
FAULTS: list[Fault] = ["reset", "500", "503", "truncated", "wrong byte"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with s3_server() as started:
        yield started


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files already count as large."""
    monkeypatch.setattr(s3_transfer, "PART_BYTES", 100_000)
    monkeypatch.setattr(moto.s3.models, "S3_UPLOAD_PART_MIN_SIZE", 1)


@pytest.fixture
def uri(address: str) -> str:
    """A prefix of the test's own."""
    assert address
    bucket = f"bucket-{uuid4().hex}"
    client().create_bucket(Bucket=bucket)
    return f"s3://{bucket}/team/rlhf"


@pytest.fixture
def faults(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """Clients go through a proxy, without waits between attempts."""
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    with faulty(address) as proxy:
        yield proxy


def client() -> Any:
    return boto3.client("s3")


def machine(uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """The store of a machine whose cache is `folder`."""
    monkeypatch.setenv("RLHF_CACHE", str(folder))
    return S3Store(uri)


def made(store: S3Store, fingerprint: str = "f1", *, large: int = LARGE_BYTES, seed: int = 1) -> Path:
    """A finished artifact of the stage `train` on the machine of `store`."""
    folder = store.folder("train", fingerprint)
    for name, size in {SMALL: 1000, LARGE: large, "empty": 0}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(random.Random(seed).randbytes(size))
    finish(folder, "train", fingerprint, seed=seed)
    return folder


def same(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in (SMALL, LARGE, "empty", MANIFEST))


@pytest.fixture
def here(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    return machine(uri, tmp_path / "here", monkeypatch)


@pytest.fixture
def there(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    return machine(uri, tmp_path / "there", monkeypatch)


def test_what_one_machine_publishes_another_reads(here: S3Store, there: S3Store) -> None:
    folder = made(here)
    assert there.verify("train", "f1") != []
    assert there.manifest("train", "f1") is None
    here.publish("train", "f1")
    assert there.verify("train", "f1") == []
    copy = there.folder("train", "f1")
    with there.local_copies([copy / "model"]):
        assert same(folder, copy)
    assert verify(copy) == []


def test_a_uri_names_a_bucket_and_a_prefix() -> None:
    assert parse_uri("s3://models/team/rlhf/") == ("models", "team/rlhf")
    assert parse_uri("s3://models") == ("models", "")
    with pytest.raises(UserError, match="s3://bucket/prefix"):
        parse_uri("s3://")


def test_parts_grow_if_there_would_be_more_than_s3_allows() -> None:
    assert part_bytes(100_000 * 10_000) == 100_000
    assert part_bytes(100_000 * 10_000 + 1) == 100_001


def test_everything_is_encrypted_and_nothing_is_public(here: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made(here)
    here.publish("train", "f1")
    monkeypatch.setenv("RLHF_KMS_KEY", "alias/ours")
    made(here, "f2")
    here.publish("train", "f2")
    for found in client().list_objects_v2(Bucket=here.bucket.name)["Contents"]:
        place = {"Bucket": here.bucket.name, "Key": found["Key"]}
        about = client().head_object(**place)
        expected = ("aws:kms", "alias/ours") if "/f2/" in found["Key"] else ("AES256", None)
        assert (about["ServerSideEncryption"], about.get("SSEKMSKeyId")) == expected
        if not found["Key"].endswith(LARGE):  # of what came in parts moto knows no list
            [grant] = client().get_object_acl(**place)["Grants"]
            assert grant["Grantee"]["Type"] == "CanonicalUser"  # the owner


def test_s3_receives_the_sha256_of_every_upload(here: S3Store) -> None:
    folder = made(here)
    here.publish("train", "f1")
    place = {"Bucket": here.bucket.name, "Key": here.bucket.key(f"artifacts/train/f1/{SMALL}")}
    about = client().head_object(**place, ChecksumMode="ENABLED")
    assert base64.b64decode(about["ChecksumSHA256"]).hex() == record_files(folder)[SMALL].sha256


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", [SMALL, LARGE, MANIFEST])
def test_a_download_survives(here: S3Store, there: S3Store, faults: Faults, fault: Fault, name: str) -> None:
    folder = made(here)
    here.publish("train", "f1")
    if name == MANIFEST and fault == "wrong byte":
        pytest.skip("a manifest that is no JSON counts as unfinished: the next test")
    faults.times(fault, 2, lambda method, path: method == "GET" and path.endswith(name))
    copy = there.folder("train", "f1")
    with there.local_copies([copy]):
        assert same(folder, copy)
    assert faults.struck == 2


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["reset", "500", "503", "truncated"])
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_an_upload_survives(here: S3Store, there: S3Store, faults: Faults, fault: Fault, method: str) -> None:
    folder = made(here)
    faults.times(fault, 2, lambda asked, path: asked == method and "train" in path)
    here.publish("train", "f1")
    assert faults.struck == 2
    copy = there.folder("train", "f1")
    with there.local_copies([copy]):
        assert same(folder, copy)


@pytest.mark.parametrize("name", [SMALL, LARGE])
def test_a_permanently_wrong_byte_is_never_used(here: S3Store, there: S3Store, faults: Faults, name: str) -> None:
    folder = made(here)
    here.publish("train", "f1")
    faults.plan = lambda method, path: "wrong byte" if method == "GET" and path.endswith(name) else None
    copy = there.folder("train", "f1")
    with pytest.raises(UserError, match=rf"{name}: sha256 differs.*rebuild"), there.local_copies([copy]):
        raise AssertionError("used")
    assert not (copy / MANIFEST).exists()
    assert not (copy / name).exists()
    assert there.verify("train", "f1") != []  # so the stage runs again, or
    faults.plan = lambda _method, _path: None
    here.publish("train", "f1")  # a machine that still has it intact publishes it again
    with there.local_copies([copy]):
        assert same(folder, copy)


def test_a_failed_upload_leaves_nothing_that_counts(here: S3Store, there: S3Store, faults: Faults) -> None:
    made(here)
    faults.plan = lambda method, path: "500" if method == "PUT" and "partNumber=2" in path else None
    with pytest.raises(UserError, match="S3 is unavailable"):
        here.publish("train", "f1")
    faults.plan = lambda _method, _path: None
    assert there.manifest("train", "f1") is None
    assert "Uploads" not in client().list_multipart_uploads(Bucket=here.bucket.name)
    assert verify(here.folder("train", "f1")) == []
    here.publish("train", "f1")
    assert there.verify("train", "f1") == []


UPLOAD = """
import sys
from rlhf.storage import s3_transfer
s3_transfer.PART_BYTES = 100_000
from rlhf.storage.s3_store import S3Store
S3Store(sys.argv[1]).publish("train", "f1")
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["partNumber=3", MANIFEST])
def test_a_kill_during_an_upload_costs_only_the_files_in_progress(
    here: S3Store, there: S3Store, address: str, where: str
) -> None:
    made(here)
    with faulty(address) as faults:
        faults.plan = lambda method, path: "hang" if method == "PUT" and where in path else None
        uploading = subprocess.Popen(
            [sys.executable, "-c", UPLOAD, here.bucket.uri],
            env={**os.environ, "RLHF_CACHE": str(here.workspace.parent)},
        )
        until = time.monotonic() + 60
        while not faults.struck:
            assert time.monotonic() < until
            time.sleep(0.05)
        uploading.send_signal(signal.SIGKILL)
        uploading.wait()
    assert there.manifest("train", "f1") is None
    with pytest.raises(UserError, match="not finished"), there.local_copies([there.folder("train", "f1")]):
        raise AssertionError("used")
    with faulty(address) as faults:
        here.publish("train", "f1")
        sent = [path for method, path in faults.seen if method == "PUT"]
        assert any(LARGE in path for path in sent) == (where != MANIFEST)
    assert "Uploads" not in client().list_multipart_uploads(Bucket=here.bucket.name)
    assert there.verify("train", "f1") == []


def test_only_the_damaged_files_of_a_copy_are_downloaded_again(here: S3Store, there: S3Store, faults: Faults) -> None:
    folder = made(here)
    here.publish("train", "f1")
    copy = there.folder("train", "f1")
    with there.local_copies([copy]):
        pass
    (copy / SMALL).write_bytes(b"x" * 1000)
    faults.seen.clear()
    with there.local_copies([copy]):
        assert same(folder, copy)
    read = [path for method, path in faults.seen if method == "GET" and "list-type" not in path]
    assert not any(LARGE in path for path in read)
    assert any(SMALL in path for path in read)


def test_a_missing_object_is_named(here: S3Store, there: S3Store) -> None:
    made(here)
    here.publish("train", "f1")
    here.bucket.remove([f"artifacts/train/f1/{SMALL}"])
    [problem] = there.verify("train", "f1")
    assert problem.startswith(f"{here.bucket.uri}/artifacts/train/f1/{SMALL}: no bytes")
    here.publish("train", "f1")
    assert there.verify("train", "f1") == []


def test_a_rebuilt_result_replaces_the_old_one(here: S3Store, there: S3Store) -> None:
    made(here)
    here.publish("train", "f1")
    copy = there.folder("train", "f1")
    with there.local_copies([copy]):
        pass
    folder = made(here, seed=2)
    here.publish("train", "f1")
    with there.local_copies([copy]):
        assert same(folder, copy)


def test_a_users_file_or_folder_is_available_to_every_machine(here: S3Store, there: S3Store, tmp_path: Path) -> None:
    (tmp_path / "data" / "more").mkdir(parents=True)
    (tmp_path / "data" / MANIFEST).write_text("the user's own")
    (tmp_path / "data" / "more" / "rows.jsonl").write_text("{}\n")
    place = here.upload_input(tmp_path / "data", "abc")
    one = here.upload_input(tmp_path / "data" / "more" / "rows.jsonl", "def")
    assert place.name == "data"
    copies = [there.workspace / path.relative_to(here.workspace) for path in (place, one)]
    with there.local_copies(copies):
        assert (copies[0] / MANIFEST).read_text() == "the user's own"
        assert (copies[0] / "more" / "rows.jsonl").read_text() == copies[1].read_text() == "{}\n"


def stopped(store: S3Store, text: str) -> Path:
    """Files of a stage that was stopped after a checkpoint."""
    folder = store.folder("train", "f1")
    (folder / "checkpoints" / "1").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / "1" / "state").write_text(text)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def test_another_machine_resumes_from_the_checkpoints(here: S3Store, there: S3Store) -> None:
    stopped(here, "one")
    here.save_unfinished("train", "f1")
    there.restore_unfinished("train", "f1")
    copy = there.folder("train", "f1")
    assert (copy / "checkpoints" / "1" / "state").read_text() == (copy / "metrics.jsonl").read_text() == "one"
    assert not (copy / MANIFEST).exists()
    stopped(there, "two")
    there.restore_unfinished("train", "f1")  # what it has goes on from there
    assert (copy / "metrics.jsonl").read_text() == "two"
    there.save_unfinished("train", "f1")
    here.restore_unfinished("train", "f1")
    assert (here.folder("train", "f1") / "metrics.jsonl").read_text() == "two"
    made(here)
    here.publish("train", "f1")
    assert here.bucket.sizes("unfinished") == {}


def test_half_saved_checkpoints_are_not_used(here: S3Store, there: S3Store, faults: Faults) -> None:
    stopped(here, "one")
    faults.plan = lambda method, path: "500" if method == "PUT" and path.endswith("state") else None
    with pytest.raises(UserError):
        here.save_unfinished("train", "f1")
    faults.plan = lambda _method, _path: None
    there.restore_unfinished("train", "f1")
    assert not there.folder("train", "f1").exists()


def test_the_least_recently_used_is_evicted_but_nothing_in_use_or_unpublished(
    here: S3Store, there: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fingerprint in ("f1", "f2", "f3"):
        made(here, fingerprint, large=10**6)
        here.publish("train", fingerprint)
    made(there, "own", large=10**6)
    copies = {name: there.folder("train", name) for name in ("f1", "f2", "f3", "own")}
    monkeypatch.setenv("RLHF_CACHE_GB", "0.0025")
    with there.local_copies([copies["f1"]]):
        for name in ("f2", "f3"):
            with there.local_copies([copies[name]]):
                time.sleep(0.02)
        assert {name for name, copy in copies.items() if copy.exists()} == {"f1", "f3", "own"}
    monkeypatch.setenv("RLHF_CACHE_GB", "0")
    there.evict()
    assert {name for name, copy in copies.items() if copy.exists()} == {"own"}
    with there.local_copies([copies["f2"]]):
        assert same(copies["f2"], here.folder("train", "f2"))


def test_verifying_names_the_object_with_a_wrong_byte(
    here: S3Store, there: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_transfer, "back_off", lambda _attempt: None)
    made(here)
    here.publish("train", "f1")
    stopped_key = "artifacts/train/f2/metrics.jsonl"
    here.bucket.write(stopped_key, b"half")
    name = f"{here.bucket.uri}/artifacts/train/f1"
    assert there.verify_all() == {name: [], f"{here.bucket.uri}/artifacts/train/f2": None}
    here.bucket.write(f"artifacts/train/f1/{SMALL}", b"x" * 1000)
    assert there.verify_all()[name] == [f"{name}/{SMALL}: sha256 differs from the manifest"]
    assert not list(there.workspace.glob(".verify-*"))


def test_errors_that_a_user_can_fix_are_one_line(uri: str, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"s3://no-such-bucket/x: there is no bucket no-such-bucket; create it"):
        Bucket("s3://no-such-bucket/x").write("a", b"")
    faults.plan = lambda method, _path: "403" if method == "PUT" else None
    with pytest.raises(UserError, match=r"access denied \(PutObject\); the role needs .*s3:PutObject"):
        Bucket(uri).write("a", b"")
    with monkeypatch.context() as changed:
        changed.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        with pytest.raises(UserError, match=r"does not answer .*AWS_ENDPOINT_URL"):
            Bucket(uri).write("a", b"")
        changed.delenv("AWS_ACCESS_KEY_ID")
        changed.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(UserError, match=r"no AWS credentials .*AWS_PROFILE"):
            Bucket(uri).write("a", b"")


def test_retries_end(here: S3Store, faults: Faults, tmp_path: Path) -> None:
    folder = made(here)
    files = record_files(folder)
    upload(here.bucket, "x", {SMALL: (folder / SMALL, files[SMALL])})
    faults.seen.clear()
    faults.plan = lambda method, _path: "wrong byte" if method == "GET" else None
    with pytest.raises(DamagedError, match=SMALL):
        download(here.bucket, "x", {SMALL: files[SMALL]}, tmp_path / "copy")
    assert len(faults.seen) == ATTEMPTS
    assert not (tmp_path / "copy" / s3_transfer.INCOMING).exists()
