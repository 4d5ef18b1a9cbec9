"""Artifacts stored in S3 and cached in a local folder of the same layout.

S3 is authoritative: an artifact is finished once its manifest exists there, which is written last and removed first.
It is downloaded when needed, every byte is hashed, and the local manifest is written last too.  Next to `artifacts/`
there are `inputs/` (the user's own files, for all machines) and `unfinished/` (files of an interrupted stage, so that
another machine can resume from its checkpoints).

The cache is a folder per URI below `RLHF_CACHE` (~/.cache/rlhf).  If it exceeds `RLHF_CACHE_GB` (200), artifacts that
S3 holds are evicted, the least recently used first; artifacts in use are never evicted.
"""

from __future__ import annotations

import math
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from uuid import uuid4

from rlhf.config import expand_home
from rlhf.errors import UserError
from rlhf.storage.artifacts import (
    CHECKPOINTS,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    FileRecord,
    Manifest,
    Store,
    parse_manifest,
    read_small_file,
    verify,
)
from rlhf.storage.files import discard_folder, file_sha256, locked, write_atomically
from rlhf.storage.fingerprints import digest
from rlhf.storage.s3 import S3, Bucket, TooLargeError
from rlhf.storage.s3_lock import lock
from rlhf.storage.s3_transfer import DamagedError, download, upload
from rlhf.storage.untrusted import is_plain_name, is_plain_path, path_inside
from rlhf.storage.user_folders import walk_folder

CACHE, CACHE_GB, DEFAULT_CACHE_GB = "RLHF_CACHE", "RLHF_CACHE_GB", "200"
DEFAULT_CACHE = "~/.cache/rlhf"
ARTIFACTS, INPUTS, UNFINISHED = "artifacts", "inputs", "unfinished"
LEASES = "leases"
"""Folder of locks: in the cache, of folders in use; in S3, of artifacts that a machine makes."""
MACHINE = "machine"
"""File among the locks of a cache: its name, which differs from that of every other cache."""
FILES = "files"
"""Folder of an input or an unfinished artifact that contains everything but its manifest."""
REMOTE_MANIFEST = ".s3"
"""File in a cached folder: the manifest of the copy in S3 that this one is at least as new as."""
GIGABYTE = 10**9


@cache
def open_s3_store(uri: str) -> S3Store:
    """This process's store for a URI."""
    return S3Store(uri)


def open_store(workspace: str) -> Store:
    """The artifacts of a workspace: a folder or s3://bucket/prefix."""
    return open_s3_store(workspace) if workspace.startswith(S3) else Store(Path(expand_home(workspace)) / ARTIFACTS)


def cache_limit() -> float:
    """Bytes that the cache may have.  Raises UserError if RLHF_CACHE_GB is no such number."""
    configured = os.environ.get(CACHE_GB) or DEFAULT_CACHE_GB
    try:
        limit = float(configured) * GIGABYTE
    except ValueError:
        limit = math.nan
    if not limit >= 0:
        raise UserError(
            f"the environment variable {CACHE_GB} ({configured!r}) must be a number of gigabytes, 0 or more"
        )
    return limit


class S3Store(Store):
    """Artifacts below an S3 URI.

    Their keys are `artifacts/STAGE/FINGERPRINT`, `unfinished/STAGE/FINGERPRINT` and `inputs/FINGERPRINT/NAME`.
    """

    def __init__(self, uri: str) -> None:
        self.bucket = Bucket(uri.rstrip("/"))
        base = expand_home(os.environ.get(CACHE) or DEFAULT_CACHE)
        self.workspace = Path(base).absolute() / digest(self.bucket.uri)[:12]
        """This machine's cache of the objects below the URI."""
        super().__init__(self.workspace / ARTIFACTS)

    def manifest(self, stage: str, fingerprint: str) -> Manifest | None:
        """The manifest of an artifact in S3, or None if it is not finished."""
        return parse_manifest(self._manifest_bytes(self._key(stage, fingerprint)))

    def verify(self, stage: str, fingerprint: str) -> list[str]:
        """Compare an artifact in S3 with its manifest by presence and size; a download also hashes the bytes."""
        key = self._key(stage, fingerprint)
        return self._missing_objects(key, self._manifest_bytes(key))

    @contextmanager
    def local_copies(self, folders: Iterable[Path], /) -> Iterator[None]:
        """Ensure that finished artifacts and inputs are in the cache inside the `with` block; download missing ones.

        `folders` are paths at or below theirs.  Raises UserError if one is not intact in S3; it then counts as
        unfinished.
        """
        with ExitStack() as leases:
            for key in sorted({self.artifact_key(folder) for folder in folders}):
                leases.enter_context(self.lease(key))
                self._fetch(key)
            self.evict()
            yield

    @contextmanager
    def lease(self, key: str) -> Iterator[None]:
        """Protect a cached folder from eviction inside the `with` block."""
        path = self._lease_file(key)
        with locked(path, shared=True):
            os.utime(path)
            yield

    @contextmanager
    def exclusive(self, stage: str, fingerprint: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Keep other runs, also of other machines, from making this artifact, and protect it from eviction."""
        key = self._key(stage, fingerprint)
        name = f"{LEASES}/{key.replace('/', '-')}.json"
        with (
            super().exclusive(stage, fingerprint, on_wait),
            lock(self.bucket, name, self._machine(), on_wait),
            self.lease(key),
        ):
            yield

    def _machine(self) -> str:
        """Name of this machine and of its cache."""
        path = self.workspace / LEASES / MACHINE
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomically(path, uuid4().hex)
        return f"{socket.gethostname()} {path.read_text(encoding='utf-8')}"

    def _key(self, stage: str, fingerprint: str) -> str:
        return self.artifact_key(self.folder(stage, fingerprint))

    def artifact_key(self, path: Path) -> str:
        """Key of the artifact or input that a cached path belongs to."""
        return "/".join(path.relative_to(self.workspace).parts[:3])

    def publish(self, stage: str, fingerprint: str) -> bool:
        """Upload this machine's finished artifact to S3, unless S3 has an intact one; returns whether S3 has this one.

        A finished artifact in S3 is never replaced: other machines may be reading it.
        """
        key, folder = self._key(stage, fingerprint), self.folder(stage, fingerprint)
        content = (folder / MANIFEST).read_bytes()
        manifest = parse_manifest(content)
        assert manifest is not None, f"{folder} is published before it is finished"
        existing = self._manifest_bytes(key)
        if existing != content and not self._missing_objects(key, existing):
            return False
        self._put(key, {name: (path_inside(folder, name), record) for name, record in manifest.files.items()}, content)
        write_atomically(folder / REMOTE_MANIFEST, content)
        self._remove(f"{UNFINISHED}/{stage}/{fingerprint}")
        return True

    def upload_input(self, path: Path, fingerprint: str) -> Path:
        """Upload a user's file or folder to S3, unless it exists there; returns its path in the cache."""
        key = f"{INPUTS}/{fingerprint}/{path.name}"
        content = self._manifest_bytes(key)
        if self._missing_objects(key, content):
            files = [path] if path.is_file() else [file for file in walk_folder(path) if file.is_file()]
            for file in files:
                if not is_plain_path(file.relative_to(path.parent).as_posix()):
                    raise UserError(
                        f"{str(file)!r}: S3 takes no name with control characters or backslashes; rename the file"
                    )
            self._put_files(key, {file.relative_to(path.parent).as_posix(): file for file in files})
        return self.workspace / key / FILES / path.name

    def save_unfinished(self, stage: str, fingerprint: str) -> None:
        """Upload the files of an interrupted stage, if it has checkpoints, so that another machine can resume it."""
        folder = self.folder(stage, fingerprint)
        if not any((folder / CHECKPOINTS).glob("*")):
            return
        key = f"{UNFINISHED}/{stage}/{fingerprint}"
        names = {
            path.relative_to(folder).as_posix(): path_inside(folder, path.relative_to(folder).as_posix())
            for path in folder.rglob("*")
            if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
        }
        content = self._put_files(key, names)
        write_atomically(folder / REMOTE_MANIFEST, content)
        stale = self.bucket.sizes(key).keys() - {MANIFEST, *(f"{FILES}/{name}" for name in names)}
        self.bucket.remove(f"{key}/{name}" for name in stale)

    def restore_unfinished(self, stage: str, fingerprint: str) -> None:
        """Download the files of a stage that another machine interrupted, unless this machine has newer ones."""
        key, folder = f"{UNFINISHED}/{stage}/{fingerprint}", self.folder(stage, fingerprint)
        content = self._manifest_bytes(key)
        manifest = parse_manifest(content)
        if manifest is None or content == read_small_file(folder / REMOTE_MANIFEST):
            return
        saved_at = datetime.fromisoformat(manifest.finished_at).timestamp()
        if any(path.stat().st_mtime > saved_at for path in folder.glob(f"{CHECKPOINTS}/*")):
            return
        try:
            self._fetch(key)
        except UserError:
            return  # the checkpoints are not intact: the stage starts over
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        (self.workspace / key / FILES).replace(folder)
        shutil.rmtree(self.workspace / key)
        assert content is not None
        write_atomically(folder / REMOTE_MANIFEST, content)

    def runs(self, published: str) -> list[str]:
        """Names of the runs that have published a file of this name to S3."""
        names = [name for name in self.bucket.folders() if is_plain_name(name)]
        return [name for name in names if self.bucket.read(f"{name}/{published}") is not None]

    def push(self, folder: Path, names: Iterable[str], /) -> str:
        """Upload the named files of a run's folder; returns their URI."""
        for name in names:
            self.bucket.write(f"{folder.name}/{name}", (folder / name).read_bytes())
        return f"{self.bucket.uri}/{folder.name}"

    def pull(self, folder: Path, names: Iterable[str], /) -> None:
        """Download the named files of a run's folder, if they exist."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            content = self.bucket.read(f"{folder.name}/{name}")
            if content is not None:
                write_atomically(folder / name, content)

    def require_writable(self) -> None:
        """Raise UserError if objects below the URI, or the cache, cannot be read, written and removed."""
        cache_limit()
        probe = f".probe-{uuid4().hex}"
        self.bucket.sizes(INPUTS)
        self.bucket.write(probe, b"")
        self.bucket.remove([probe])
        super().require_writable()

    def evict(self) -> None:
        """Remove unused artifacts that S3 holds from the cache, least recently used first, down to its limit."""
        limit = cache_limit()
        sizes = {
            self.artifact_key(path.parent): sum(record.size for record in manifest.files.values())
            for part in (ARTIFACTS, INPUTS)
            for path in self.workspace.glob(f"{part}/*/*/{MANIFEST}")
            if (manifest := parse_manifest(read_small_file(path)))
            and read_small_file(path.with_name(REMOTE_MANIFEST)) == read_small_file(path)
        }
        over = sum(sizes.values()) - limit
        for key in sorted(sizes, key=lambda key: self._lease_file(key).stat().st_mtime):
            if over <= 0:
                return
            with suppress(BlockingIOError), locked(self._lease_file(key), wait=False):
                discard_folder(self.workspace / key)
                over -= sizes[key]

    def verify_all(self) -> dict[str, list[str] | None]:
        """Hash every file of every artifact in S3; returns the problems of each, None for one that is not finished."""
        names = self.bucket.sizes(ARTIFACTS).keys()
        keys = sorted({"/".join([ARTIFACTS, *name.split("/")[:2]]) for name in names})
        finished = {f"{ARTIFACTS}/{name.removesuffix(f'/{MANIFEST}')}" for name in names}
        odd = [key for key in keys if not is_plain_path(key)]
        return {
            **{f"{self.bucket.uri}/{key!r}": ["not a plain path; remove these objects"] for key in odd},
            **{
                f"{self.bucket.uri}/{key}": self._verify_bytes(key) if key in finished else None
                for key in keys
                if key not in odd
            },
        }

    def _verify_bytes(self, key: str) -> list[str]:
        content = self._manifest_bytes(key)
        manifest = parse_manifest(content)
        if manifest is None or (missing := self._missing_objects(key, content)):
            return [f"{self.bucket.uri}/{key}/{MANIFEST}: missing or not intact"] if manifest is None else missing
        scratch = self.workspace / f".verify-{uuid4().hex}"
        try:
            download(self.bucket, key, manifest.files, scratch)
        except DamagedError as error:
            return str(error).splitlines()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return []

    def _manifest_bytes(self, key: str) -> bytes | None:
        """The manifest in S3, empty if it is too large to be one, or None if there is none."""
        try:
            return self.bucket.read(f"{key}/{MANIFEST}", MAX_MANIFEST_BYTES)
        except TooLargeError:
            return b""

    def _missing_objects(self, key: str, content: bytes | None) -> list[str]:
        manifest, uri = parse_manifest(content), f"{self.bucket.uri}/{key}"
        if manifest is None:
            return [f"{uri}/{MANIFEST}: missing or not intact"]
        sizes = self.bucket.sizes(key)
        return [
            f"{uri}/{name}: {sizes.get(name, 'no')} bytes, but the manifest says {record.size}"
            for name, record in manifest.files.items()
            if sizes.get(name) != record.size
        ]

    def _put(self, key: str, files: Mapping[str, tuple[Path, FileRecord]], content: bytes) -> None:
        existing = self._manifest_bytes(key)
        if existing == content and not self._missing_objects(key, existing):
            return
        if existing is not None:
            self.bucket.remove([f"{key}/{MANIFEST}"])  # until everything is uploaded it counts as unfinished
        self.bucket.abort_uploads(key)
        upload(self.bucket, key, files)
        self.bucket.write(f"{key}/{MANIFEST}", content)

    def _put_files(self, key: str, files: Mapping[str, Path]) -> bytes:
        records = {
            f"{FILES}/{name}": FileRecord(sha256=file_sha256(path), size=path.stat().st_size)
            for name, path in files.items()
        }
        part, name, fingerprint = key.split("/", 2)
        manifest = Manifest(
            stage=part,
            fingerprint=fingerprint if part == UNFINISHED else name,
            config={},
            inputs={},
            files=records,
            metrics={},
            versions={},
            seed=0,
            seconds=0.0,
            device="",
            processes=0,
            finished_at=datetime.now(UTC).isoformat(),
        )
        content = manifest.model_dump_json(indent=2).encode()
        self._put(key, {f"{FILES}/{name}": (path, records[f"{FILES}/{name}"]) for name, path in files.items()}, content)
        return content

    def _fetch(self, key: str) -> None:
        folder = self.workspace / key
        with locked(self._lease_file(key, ".fetch")):
            while True:
                content = self._manifest_bytes(key)
                manifest = parse_manifest(content)
                if manifest is None or content is None:
                    raise UserError(f"{self.bucket.uri}/{key} is not finished; run again to build it")
                local = read_small_file(folder / MANIFEST)
                if local == content and not verify(folder):
                    return
                if local is not None and local != content:
                    discard_folder(folder)
                (folder / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
                missing = {
                    name: record
                    for name, record in manifest.files.items()
                    if not _matches(path_inside(folder, name), record)
                }
                try:
                    download(self.bucket, key, missing, folder)
                except DamagedError as error:
                    if self._manifest_bytes(key) != content:
                        continue  # it was replaced during the download
                    self.bucket.remove([f"{key}/{MANIFEST}"])
                    problems = "; ".join(str(error).splitlines())
                    raise UserError(f"{problems}; it now counts as unfinished: run again to rebuild it") from error
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / MANIFEST, content)
                write_atomically(folder / REMOTE_MANIFEST, content)
                return

    def _remove(self, key: str) -> None:
        names = self.bucket.sizes(key).keys()
        self.bucket.remove([f"{key}/{MANIFEST}"] if names else [])
        self.bucket.remove(f"{key}/{name}" for name in names - {MANIFEST})

    def _lease_file(self, key: str, suffix: str = "") -> Path:
        path = self.workspace / LEASES / (key.replace("/", "-") + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch()
        return path


def _matches(path: Path, record: FileRecord) -> bool:
    return path.is_file() and path.stat().st_size == record.size and file_sha256(path) == record.sha256
