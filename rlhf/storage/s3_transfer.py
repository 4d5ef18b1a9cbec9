"""Many files to and from S3 at once: in parts, repeated, and checked by sha256 on both ways.

Up: each file or part carries its sha256, which S3 compares with what arrives; an object is there whole or not at all.
Down: a file is hashed while it is written below `.incoming/` and takes its name only when the hash is right.
Memory is THREADS parts at most, whatever the sizes are.
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
from rlhf.storage.s3 import ATTEMPTS, THREADS, Bucket, abort, attributes, back_off, checksum, error_code, insist

PART_BYTES = 8 * 2**20
"""A file over this size travels in parts of this size."""
MOST_PARTS = 10_000
"""S3's own limit for one object."""
CHUNK_BYTES = 2**18
"""Read at once from a body."""
INCOMING = ".incoming"
"""Folder of files on their way; part of no artifact."""

Job = Callable[[], None]


class DamagedError(RuntimeError):
    """Objects that stay missing, or other than their manifest says, after every attempt; one line each."""


def part_bytes(size: int) -> int:
    """Bytes of each part of a file of `size` bytes: PART_BYTES, or more where that made too many."""
    return max(PART_BYTES, -(-size // MOST_PARTS))


def upload(bucket: Bucket, prefix: str, files: Mapping[str, tuple[Path, FileRecord]]) -> None:
    """Put files under `prefix/NAME`; those that are there already, by size and sha256, are not sent again.

    Raises UserError where a file is no longer as its record says.
    """
    with bucket.errors_told():
        there = bucket.sizes(prefix)
        outgoing = [
            _Outgoing(bucket, f"{prefix}/{name}", path, record) for name, (path, record) in sorted(files.items())
        ]
        maybe = [one for one in outgoing if there.get(one.key.removeprefix(f"{prefix}/")) == one.record.size]
        _in_parallel([one.ask for one in maybe])
        outgoing = [one for one in outgoing if not one.there]
        try:
            _in_parallel([job for one in outgoing for job in one.jobs()])
        except BaseException:
            for one in outgoing:
                one.give_up()
            raise


def download(bucket: Bucket, prefix: str, files: Mapping[str, FileRecord], folder: Path) -> None:
    """Put the objects `prefix/NAME` into `folder` as NAME, each only once its sha256 is right.

    Raises DamagedError where one stays wrong or missing.
    """
    incoming = folder / INCOMING
    shutil.rmtree(incoming, ignore_errors=True)
    left = {name: _Incoming(bucket, f"{prefix}/{name}", incoming / name, files[name]) for name in sorted(files)}
    try:
        with bucket.errors_told():
            for attempt in range(ATTEMPTS):
                back_off(attempt)
                _in_parallel([job for one in left.values() for job in one.jobs()])
                for name in [name for name, one in left.items() if one.problem is None]:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    left.pop(name).path.replace(folder / name)
                if not left:
                    return
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    raise DamagedError("\n".join(f"{bucket.uri}/{prefix}/{name}: {one.problem}" for name, one in left.items()))


@dataclass
class _Outgoing:
    """A file on its way up: in one piece, or in parts that are put together once all are there."""

    bucket: Bucket
    key: str
    path: Path
    record: FileRecord
    there: bool = False
    upload: str | None = None
    parts: dict[int, dict[str, Any]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self) -> None:
        """Find out whether the object is there already."""
        found = self.bucket.client.head_object(**self.bucket.object(self.key))
        self.there = found.get("Metadata", {}).get("sha256") == self.record.sha256

    def jobs(self) -> list[Job]:
        """What is to be done, in any order and at once."""
        if not self.path.is_file() or self.path.stat().st_size != self.record.size:
            raise UserError(f"{self.path} changed while it was in use; run again")
        size = part_bytes(self.record.size)
        if self.record.size <= size:
            return [lambda: self.bucket.put(self.key, self.path.read_bytes(), self.record.sha256)]
        count = -(-self.record.size // size)
        return [partial(self._part, number, count, size) for number in range(1, count + 1)]

    def give_up(self) -> None:
        """Take back what was sent of an object that will not be finished."""
        if self.upload is not None:
            abort(self.bucket.client, self.bucket.object(self.key), self.upload)

    def _part(self, number: int, count: int, size: int) -> None:
        client, place = self.bucket.client, self.bucket.object(self.key)
        with self.lock:
            if self.upload is None:
                given = attributes(self.record.sha256)
                begun = client.create_multipart_upload(**place, ChecksumAlgorithm="SHA256", **given)
                self.upload = begun["UploadId"]
        with self.path.open("rb") as stream:
            stream.seek((number - 1) * size)
            content = stream.read(size)
        about = checksum(hashlib.sha256(content).hexdigest())
        part = {"PartNumber": number, "UploadId": self.upload, "Body": content}
        sent = insist(lambda: client.upload_part(**place, **about, **part))
        with self.lock:
            self.parts[number] = {"PartNumber": number, "ChecksumSHA256": about["ChecksumSHA256"], "ETag": sent["ETag"]}
            last = len(self.parts) == count
        if last:
            parts = [self.parts[number] for number in sorted(self.parts)]
            client.complete_multipart_upload(**place, UploadId=self.upload, MultipartUpload={"Parts": parts})
            self.upload = None


@dataclass
class _Incoming:
    """A file on its way down: parts are written where they belong and hashed as soon as all before them are there."""

    bucket: Bucket
    key: str
    path: Path
    record: FileRecord
    problem: str | None = None
    """What is wrong with it; None once it is right."""
    left: int = 0
    arrived: set[int] = field(default_factory=set)
    hashed: int = 0
    hash: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def jobs(self) -> list[Job]:
        """What is to be done, in any order and at once; may be asked for again."""
        size = part_bytes(self.record.size)
        self.problem, self.hash, self.hashed = "did not arrive", hashlib.sha256(), 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")
        if self.record.size <= size:
            return [self._whole]
        self.arrived, self.left = set(), -(-self.record.size // size)
        return [partial(self._part, start, size) for start in range(0, self.record.size, size)]

    def _whole(self) -> None:
        def get() -> None:
            self.hash = hashlib.sha256()
            with self.path.open("wb") as stream:
                for chunk in self._body().iter_chunks(CHUNK_BYTES):
                    self.hash.update(chunk)
                    stream.write(chunk)

        self._try(get)
        self._judge()

    def _part(self, start: int, size: int) -> None:
        end = min(start + size, self.record.size)

        def get() -> None:
            with self.path.open("r+b") as stream:
                stream.seek(start)
                for chunk in self._body(Range=f"bytes={start}-{end - 1}").iter_chunks(CHUNK_BYTES):
                    stream.write(chunk)

        self._try(get)
        with self.lock:
            self.arrived.add(start)
            self.left -= 1
            with self.path.open("rb") as stream:
                stream.seek(self.hashed)
                while self.hashed in self.arrived:
                    self.hash.update(stream.read(size))
                    self.hashed += size
            if self.left == 0:
                self._judge()

    def _body(self, **wanted: str) -> Any:
        return self.bucket.client.get_object(**self.bucket.object(self.key), **wanted)["Body"]

    def _try(self, get: Job) -> None:
        try:
            insist(get)
        except ClientError as error:
            if error_code(error) not in ("NoSuchKey", "InvalidRange"):
                raise
            self.problem = "missing" if error_code(error) == "NoSuchKey" else "too short"

    def _judge(self) -> None:
        size = self.path.stat().st_size
        if self.hash.hexdigest() == self.record.sha256 and size == self.record.size:
            self.problem = None
        elif self.problem == "did not arrive":
            self.problem = "sha256 differs from the manifest"


def _in_parallel(jobs: Sequence[Job]) -> None:
    """Do all jobs, THREADS at once; the first error ends it once those that are running have ended."""
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
