"""Artifacts that are kept in S3 and used from a folder of this machine, in the same layout.

What S3 holds decides: an artifact is finished once its manifest is there, which is written last and removed first.
Here it is fetched when it is needed, every byte hashed, and its manifest again written last.  Beside `artifacts/` there
are `inputs/` (the user's own files, so that every machine can read them) and `unfinished/` (what a stage left that did
not end, so that another machine goes on from its checkpoints).

The folder is `RLHF_CACHE` (~/.cache/rlhf) by uri.  Over `RLHF_CACHE_GB` (200), artifacts that S3 holds are removed from
it, the longest unused first, and none that a process of this machine is using.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from uuid import uuid4

from pydantic import ValidationError

from rlhf.errors import UserError
from rlhf.storage.artifacts import CHECKPOINTS, MANIFEST, FileRecord, Manifest, Store, damage
from rlhf.storage.files import file_sha256, write_atomically
from rlhf.storage.fingerprints import digest
from rlhf.storage.s3 import S3, Bucket
from rlhf.storage.s3_transfer import DamagedError, download, upload

CACHE, CACHE_GB, DEFAULT_CACHE_GB = "RLHF_CACHE", "RLHF_CACHE_GB", "200"
ARTIFACTS, INPUTS, UNFINISHED = "artifacts", "inputs", "unfinished"
FILES = "files"
"""Folder, within an input or unfinished artifact, of all that is not its manifest."""
IN_S3 = ".s3"
"""In a folder of the cache: the manifest of the copy in S3 that it is no older than."""
GIGABYTE = 10**9


@cache
def store_at(uri: str) -> S3Store:
    """The store of this process at a uri."""
    return S3Store(uri)


def store_in(workspace: str) -> Store:
    """The artifacts of a workspace, which is a folder or s3://bucket/prefix."""
    return store_at(workspace) if workspace.startswith(S3) else Store(Path(workspace) / ARTIFACTS)


class S3Store(Store):
    """Artifacts below `uri`; a bundle is `artifacts/STEP/FINGERPRINT` or its like in `inputs` and `unfinished`."""

    def __init__(self, uri: str) -> None:
        self.bucket = Bucket(uri.rstrip("/"))
        base = os.environ.get(CACHE) or Path.home() / ".cache" / "rlhf"
        self.workspace = Path(base).absolute() / digest(self.bucket.uri)[:12]
        """This machine's copy of what is below the uri."""
        super().__init__(self.workspace / ARTIFACTS)

    def manifest(self, stage: str, fingerprint: str) -> Manifest | None:
        """What S3 says of an artifact, or None where it is not finished."""
        return _parsed(self._manifest_of(f"{ARTIFACTS}/{stage}/{fingerprint}"))

    def problems(self, stage: str, fingerprint: str) -> list[str]:
        """What the artifact in S3 lacks, one line a file, by presence and size; bytes are hashed when they are read."""
        bundle = f"{ARTIFACTS}/{stage}/{fingerprint}"
        return self._lacks(bundle, self._manifest_of(bundle))

    @contextmanager
    def at_hand(self, folders: Iterable[Path], /) -> Iterator[None]:
        """Hold finished artifacts and inputs in the cache, fetched where they are not there, while the body runs.

        `folders` are paths at or below theirs.  Raises UserError where one is not whole in S3; it then counts as
        unfinished.
        """
        with ExitStack() as held:
            for bundle in sorted({self.bundle(folder) for folder in folders}):
                held.enter_context(self.in_use(bundle))
                self._fetch(bundle)
            self.make_room()
            yield

    @contextmanager
    def in_use(self, bundle: str) -> Iterator[None]:
        """Keep a folder of the cache from being removed while the body runs."""
        lease = self._lease(bundle)
        with _locked(lease, fcntl.LOCK_SH):
            os.utime(lease)
            yield

    def bundle(self, path: Path) -> str:
        """The bundle that a path of the cache belongs to."""
        return "/".join(path.relative_to(self.workspace).parts[:3])

    def publish(self, stage: str, fingerprint: str) -> None:
        """Bring the finished artifact of this machine to S3; where it is there already nothing is sent."""
        bundle = f"{ARTIFACTS}/{stage}/{fingerprint}"
        folder = self.workspace / bundle
        content = (folder / MANIFEST).read_bytes()
        manifest = _parsed(content)
        assert manifest is not None, f"{folder} is published before it is finished"
        self._put(bundle, {name: (folder / name, record) for name, record in manifest.files.items()}, content)
        write_atomically(folder / IN_S3, content.decode())
        self._remove(f"{UNFINISHED}/{stage}/{fingerprint}")

    def give(self, path: Path, fingerprint: str) -> Path:
        """Bring a user's file or folder to S3, unless it is there; returns where stages find it."""
        bundle = f"{INPUTS}/{fingerprint}/{path.name}"
        content = self._manifest_of(bundle)
        if self._lacks(bundle, content):
            within = [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]
            self._put_files(bundle, {file.relative_to(path.parent).as_posix(): file for file in within})
        return self.workspace / bundle / FILES / path.name

    def save_unfinished(self, stage: str, fingerprint: str) -> None:
        """Bring what a stage left that has checkpoints to S3, for another machine to go on from."""
        folder = self.folder(stage, fingerprint)
        if not any((folder / CHECKPOINTS).glob("*")):
            return
        bundle = f"{UNFINISHED}/{stage}/{fingerprint}"
        names = {
            path.relative_to(folder).as_posix(): path
            for path in folder.rglob("*")
            if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
        }
        content = self._put_files(bundle, names)
        write_atomically(folder / IN_S3, content.decode())
        stale = self.bucket.sizes(bundle).keys() - {MANIFEST, *(f"{FILES}/{name}" for name in names)}
        self.bucket.remove(f"{bundle}/{name}" for name in stale)

    def restore_unfinished(self, stage: str, fingerprint: str) -> None:
        """Take over what another machine left of a stage, unless this machine has something newer."""
        bundle, folder = f"{UNFINISHED}/{stage}/{fingerprint}", self.folder(stage, fingerprint)
        content = self._manifest_of(bundle)
        manifest = _parsed(content)
        if manifest is None or content == _content(folder / IN_S3):
            return
        saved = datetime.fromisoformat(manifest.finished_at).timestamp()
        if any(path.stat().st_mtime > saved for path in folder.glob(f"{CHECKPOINTS}/*")):
            return
        try:
            self._fetch(bundle)
        except UserError:
            return  # damaged checkpoints: the stage begins anew
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        (self.workspace / bundle / FILES).replace(folder)
        shutil.rmtree(self.workspace / bundle)
        assert content is not None
        write_atomically(folder / IN_S3, content.decode())

    def runs(self, published: str) -> list[str]:
        """Names of the runs that have published a file of this name to S3."""
        return [name for name in self.bucket.folders() if self.bucket.read(f"{name}/{published}") is not None]

    def share(self, folder: Path, names: Iterable[str], /) -> str:
        """Put the named files of a run's folder where everybody finds them; returns the uri of that place."""
        for name in names:
            self.bucket.write(f"{folder.name}/{name}", (folder / name).read_bytes())
        return f"{self.bucket.uri}/{folder.name}"

    def take(self, folder: Path, names: Iterable[str], /) -> None:
        """Bring the named files of a run's folder here, as far as they are there."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            content = self.bucket.read(f"{folder.name}/{name}")
            if content is not None:
                write_atomically(folder / name, content.decode())

    def require_writable(self) -> None:
        """Raise UserError where one cannot read, write and remove below the uri."""
        probe = f".probe-{uuid4().hex}"
        self.bucket.sizes(INPUTS)
        self.bucket.write(probe, b"")
        self.bucket.remove([probe])

    def make_room(self) -> None:
        """Remove what S3 holds and nobody uses from the cache, the longest unused first, down to its bound."""
        bound = float(os.environ.get(CACHE_GB, DEFAULT_CACHE_GB)) * GIGABYTE
        sizes = {
            self.bundle(path.parent): sum(record.size for record in manifest.files.values())
            for part in (ARTIFACTS, INPUTS)
            for path in self.workspace.glob(f"{part}/*/*/{MANIFEST}")
            if (manifest := _parsed(_content(path))) and _content(path.with_name(IN_S3)) == _content(path)
        }
        over = sum(sizes.values()) - bound
        for bundle in sorted(sizes, key=lambda bundle: self._lease(bundle).stat().st_mtime):
            if over <= 0:
                return
            with suppress(BlockingIOError), _locked(self._lease(bundle), fcntl.LOCK_EX | fcntl.LOCK_NB):
                trash = self.workspace / f".removed-{uuid4().hex}"
                (self.workspace / bundle).rename(trash)  # gone at once, or not at all
                shutil.rmtree(trash)
                over -= sizes[bundle]

    def survey(self) -> dict[str, list[str] | None]:
        """What is wrong with every artifact in S3 after reading all of its bytes; None where it is unfinished."""
        names = self.bucket.sizes(ARTIFACTS).keys()
        bundles = sorted({"/".join([ARTIFACTS, *name.split("/")[:2]]) for name in names})
        finished = {f"{ARTIFACTS}/{name.removesuffix(f'/{MANIFEST}')}" for name in names}
        return {
            f"{self.bucket.uri}/{bundle}": self._damage(bundle) if bundle in finished else None for bundle in bundles
        }

    def _damage(self, bundle: str) -> list[str]:
        content = self._manifest_of(bundle)
        manifest = _parsed(content)
        if manifest is None or (lacks := self._lacks(bundle, content)):
            return [f"{self.bucket.uri}/{bundle}/{MANIFEST}: missing or not whole"] if manifest is None else lacks
        scratch = self.workspace / f".verify-{uuid4().hex}"
        try:
            download(self.bucket, bundle, manifest.files, scratch)
        except DamagedError as error:
            return str(error).splitlines()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return []

    def _manifest_of(self, bundle: str) -> bytes | None:
        return self.bucket.read(f"{bundle}/{MANIFEST}")

    def _lacks(self, bundle: str, content: bytes | None) -> list[str]:
        manifest, place = _parsed(content), f"{self.bucket.uri}/{bundle}"
        if manifest is None:
            return [f"{place}/{MANIFEST}: missing or not whole"]
        sizes = self.bucket.sizes(bundle)
        return [
            f"{place}/{name}: {sizes.get(name, 'no')} bytes where the manifest says {record.size}"
            for name, record in manifest.files.items()
            if sizes.get(name) != record.size
        ]

    def _put(self, bundle: str, files: Mapping[str, tuple[Path, FileRecord]], content: bytes) -> None:
        there = self._manifest_of(bundle)
        if there == content and not self._lacks(bundle, there):
            return
        if there is not None:
            self.bucket.remove([f"{bundle}/{MANIFEST}"])  # until all is there it counts as unfinished
        self.bucket.abort_uploads(bundle)
        upload(self.bucket, bundle, files)
        self.bucket.write(f"{bundle}/{MANIFEST}", content)

    def _put_files(self, bundle: str, files: Mapping[str, Path]) -> bytes:
        records = {
            f"{FILES}/{name}": FileRecord(sha256=file_sha256(path), size=path.stat().st_size)
            for name, path in files.items()
        }
        part, name, fingerprint = bundle.split("/", 2)
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
        self._put(
            bundle, {f"{FILES}/{name}": (path, records[f"{FILES}/{name}"]) for name, path in files.items()}, content
        )
        return content

    def _fetch(self, bundle: str) -> None:
        folder = self.workspace / bundle
        with _locked(self._lease(bundle, ".fetch"), fcntl.LOCK_EX):
            while True:
                content = self._manifest_of(bundle)
                manifest = _parsed(content)
                if manifest is None or content is None:
                    raise UserError(f"{self.bucket.uri}/{bundle} is not finished; run again, and it is made")
                mine = _content(folder / MANIFEST)
                if mine == content and not damage(folder):
                    return
                if mine is not None and mine != content:
                    shutil.rmtree(folder)
                (folder / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
                missing = {name: record for name, record in manifest.files.items() if not _is(folder / name, record)}
                try:
                    download(self.bucket, bundle, missing, folder)
                except DamagedError as error:
                    if self._manifest_of(bundle) != content:
                        continue  # it was made anew meanwhile
                    self.bucket.remove([f"{bundle}/{MANIFEST}"])
                    raise UserError(f"{error}; it counts as unfinished now: run again, and it is made again") from None
                write_atomically(folder / MANIFEST, content.decode())
                write_atomically(folder / IN_S3, content.decode())
                return

    def _remove(self, bundle: str) -> None:
        names = self.bucket.sizes(bundle).keys()
        self.bucket.remove([f"{bundle}/{MANIFEST}"] if names else [])
        self.bucket.remove(f"{bundle}/{name}" for name in names - {MANIFEST})

    def _lease(self, bundle: str, suffix: str = "") -> Path:
        path = self.workspace / "leases" / (bundle.replace("/", "-") + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch()
        return path


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    """Hold a lock that ends with this process at the latest; raises BlockingIOError with LOCK_NB."""
    with path.open("a") as stream:
        fcntl.flock(stream, how)
        yield


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _parsed(content: bytes | None) -> Manifest | None:
    with suppress(ValidationError):
        return Manifest.model_validate_json(content) if content is not None else None
    return None


def _is(path: Path, record: FileRecord) -> bool:
    return path.is_file() and path.stat().st_size == record.size and file_sha256(path) == record.sha256
