"""Transfer many files to and from S3 in parallel: in parts, with retries, checked by sha256 in both directions.

Upload: each file or part carries its sha256, which S3 compares with what it receives; an object is complete or missing.
Download: a file is hashed while it is written below `.incoming/` and renamed only if the hash is right.
Memory use is at most THREADS parts, whatever the sizes of the files.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from rlhf.errors import UserError
from rlhf.storage.artifacts import FileRecord
from rlhf.storage.s3 import (
    ATTEMPTS,
    THREADS,
    Bucket,
    abort,
    back_off,
    checksum,
    error_code,
    object_attributes,
    retry_transfer,
)
from rlhf.storage.untrusted import path_inside

PART_BYTES = 8 * 2**20
"""Files over this size are transferred in parts of this size."""
MOST_PARTS = 10_000
"""S3's own limit for one object."""
CHUNK_BYTES = 2**18
"""Bytes read at once from a body."""
INCOMING = ".incoming"
"""Folder of files being downloaded; not part of any artifact."""

Job = Callable[[], None]


class DamagedError(RuntimeError):
    """Objects that are missing or differ from their manifest after all attempts; one line each."""


def part_bytes(size: int) -> int:
    """Bytes of each part of a file of `size` bytes: PART_BYTES, or more if that would make too many."""
    return max(PART_BYTES, -(-size // MOST_PARTS))


def upload(bucket: Bucket, prefix: str, files: Mapping[str, tuple[Path, FileRecord]]) -> None:
    """Upload files to `prefix/NAME`, except those that exist there with the same size and sha256.

    Raises UserError if a file no longer matches its record.
    """
    with bucket.as_user_errors():
        sizes = bucket.sizes(prefix)
        uploads = [_Upload(bucket, f"{prefix}/{name}", path, record) for name, (path, record) in sorted(files.items())]
        same_size = [file for file in uploads if sizes.get(file.key.removeprefix(f"{prefix}/")) == file.record.size]
        _in_parallel([file.check_existing for file in same_size])
        uploads = [file for file in uploads if not file.exists]
        try:
            _in_parallel([job for file in uploads for job in file.jobs()])
        except BaseException:
            for file in uploads:
                file.abort()
            raise


def download(bucket: Bucket, prefix: str, files: Mapping[str, FileRecord], folder: Path) -> None:
    """Download the objects `prefix/NAME` to `folder/NAME`, each only if its sha256 is right.

    Raises DamagedError if one is still wrong or missing after all attempts, UserError for a name that leads out of
    the folder.
    """
    incoming = folder / INCOMING
    shutil.rmtree(incoming, ignore_errors=True)
    targets = {name: path_inside(folder, name) for name in sorted(files)}
    pending = {
        name: _Download(bucket, f"{prefix}/{name}", path_inside(incoming, name), files[name]) for name in targets
    }
    try:
        with bucket.as_user_errors():
            for attempt in range(ATTEMPTS):
                back_off(attempt)
                _in_parallel([job for file in pending.values() for job in file.jobs()])
                for name in [name for name, file in pending.items() if file.problem is None]:
                    targets[name].parent.mkdir(parents=True, exist_ok=True)
                    pending.pop(name).path.replace(targets[name])
                if not pending:
                    return
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    raise DamagedError("\n".join(f"{bucket.uri}/{prefix}/{name}: {file.problem}" for name, file in pending.items()))


@dataclass
class _Upload:
    """A file being uploaded, in one piece or as a multipart upload."""

    bucket: Bucket
    key: str
    path: Path
    record: FileRecord
    exists: bool = False
    upload: str | None = None
    parts: dict[int, dict[str, Any]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def check_existing(self) -> None:
        """Set `exists` if the object has the same content already."""
        head = self.bucket.client.head_object(**self.bucket.object(self.key))
        self.exists = head.get("Metadata", {}).get("sha256") == self.record.sha256

    def jobs(self) -> list[Job]:
        """Jobs that transfer the file, in any order and in parallel."""
        if not self.path.is_file() or self.path.stat().st_size != self.record.size:
            raise UserError(f"{self.path} changed while it was in use; run again")
        size = part_bytes(self.record.size)
        if self.record.size <= size:
            return [lambda: self.bucket.put(self.key, self.path.read_bytes(), self.record.sha256)]
        count = -(-self.record.size // size)
        return [partial(self._part, number, count, size) for number in range(1, count + 1)]

    def abort(self) -> None:
        """Remove the parts of an upload that will not be completed."""
        if self.upload is not None:
            abort(self.bucket.client, self.bucket.object(self.key), self.upload)

    def _part(self, number: int, count: int, size: int) -> None:
        client, location = self.bucket.client, self.bucket.object(self.key)
        with self.lock:
            if self.upload is None:
                attributes = object_attributes(self.record.sha256)
                reply = client.create_multipart_upload(**location, ChecksumAlgorithm="SHA256", **attributes)
                self.upload = reply["UploadId"]
        with self.path.open("rb") as stream:
            stream.seek((number - 1) * size)
            content = stream.read(size)
        part_checksum = checksum(hashlib.sha256(content).hexdigest())
        part = {"PartNumber": number, "UploadId": self.upload, "Body": content}
        reply = retry_transfer(lambda: client.upload_part(**location, **part_checksum, **part))
        with self.lock:
            self.parts[number] = {
                "PartNumber": number,
                "ChecksumSHA256": part_checksum["ChecksumSHA256"],
                "ETag": reply["ETag"],
            }
            last = len(self.parts) == count
        if last:
            parts = [self.parts[number] for number in sorted(self.parts)]
            client.complete_multipart_upload(**location, UploadId=self.upload, MultipartUpload={"Parts": parts})
            self.upload = None


@dataclass
class _Download:
    """A file being downloaded: parts are written at their offsets and hashed as soon as all earlier ones arrived."""

    bucket: Bucket
    key: str
    path: Path
    record: FileRecord
    problem: str | None = None
    """What is wrong with it; None if it is complete and right."""
    remaining_parts: int = 0
    arrived_offsets: set[int] = field(default_factory=set)
    hashed_bytes: int = 0
    hash: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def jobs(self) -> list[Job]:
        """Jobs that transfer the file, in any order and in parallel; a second call starts over."""
        size = part_bytes(self.record.size)
        self.problem, self.hash, self.hashed_bytes = "did not arrive", hashlib.sha256(), 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")
        if self.record.size <= size:
            return [self._unsplit]
        self.arrived_offsets, self.remaining_parts = set(), -(-self.record.size // size)
        return [partial(self._part, start, size) for start in range(0, self.record.size, size)]

    def _unsplit(self) -> None:
        def get() -> None:
            self.hash = hashlib.sha256()
            with self.path.open("wb") as stream:
                for chunk in self._body().iter_chunks(CHUNK_BYTES):
                    self.hash.update(chunk)
                    stream.write(chunk)
                    if stream.tell() > self.record.size:
                        return  # a wrong object, however long it is

        self._try(get)
        self._check_hash()

    def _part(self, start: int, size: int) -> None:
        end = min(start + size, self.record.size)

        def get() -> None:
            with self.path.open("r+b") as stream:
                stream.seek(start)
                for chunk in self._body(Range=f"bytes={start}-{end - 1}").iter_chunks(CHUNK_BYTES):
                    stream.write(chunk)

        self._try(get)
        with self.lock:
            self.arrived_offsets.add(start)
            self.remaining_parts -= 1
            with self.path.open("rb") as stream:
                stream.seek(self.hashed_bytes)
                while self.hashed_bytes in self.arrived_offsets:
                    self.hash.update(stream.read(size))
                    self.hashed_bytes += size
            if self.remaining_parts == 0:
                self._check_hash()

    def _body(self, **options: str) -> Any:
        return self.bucket.client.get_object(**self.bucket.object(self.key), **options)["Body"]

    def _try(self, get: Job) -> None:
        try:
            retry_transfer(get)
        except ClientError as error:
            if error_code(error) not in ("NoSuchKey", "InvalidRange"):
                raise
            self.problem = "missing" if error_code(error) == "NoSuchKey" else "too short"

    def _check_hash(self) -> None:
        size = self.path.stat().st_size
        if self.hash.hexdigest() == self.record.sha256 and size == self.record.size:
            self.problem = None
        elif self.problem == "did not arrive":
            self.problem = "sha256 differs from the manifest"


def _in_parallel(jobs: Sequence[Job]) -> None:
    """Run all jobs, THREADS at a time; after the first error, wait for the running jobs and raise it."""
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            for future in futures:
                future.cancel()
    for future in futures:
        if not future.cancelled():
            future.result()
