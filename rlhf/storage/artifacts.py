"""Artifacts: the finished output of a stage, stored under a fingerprint of everything it depends on.

`artifacts/<stage>/<fingerprint>/` holds the stage's files and `manifest.json` with the sha256 of each, which is written
last: without it the artifact is not finished.  The fingerprint hashes the stage's settings, the fingerprints of its
inputs and the code that it runs, so a rerun writes to the same folder and resumes there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from rlhf.errors import UserError
from rlhf.storage.files import REMOVED, file_sha256, locked_when_free, write_atomically
from rlhf.storage.untrusted import (
    MalformedJsonError,
    is_plain_name,
    is_plain_path,
    parse_json,
    path_inside,
    read_regular_file,
)

MANIFEST = "manifest.json"
REQUEST = "request.json"
LOG = "log.txt"
STAT_CACHE = ".stat.json"
STAGE_LOCK = ".lock"
"""File in the folder of an artifact that the stage's own process keeps locked while it writes there."""
RUN_LOCK = ".run"
"""End of the name of the file, next to the folder of an artifact, that a run keeps locked while it makes it."""
CHECKPOINTS = "checkpoints"
"""Folder of an unfinished stage's checkpoints; removed after the manifest is written."""
MAX_MANIFEST_BYTES = 2**26
"""Larger files are not manifests; this is enough for some hundred thousand files."""


def _require_plain(name: str) -> str:
    if not is_plain_path(name):
        raise ValueError(f"{name[:200]!r} is not a plain path inside its folder")
    return name


PlainPath = Annotated[str, AfterValidator(_require_plain)]
"""The path of a file in a record from outside, relative to its folder and below it."""


def _moment(text: str) -> str:
    try:
        datetime.fromisoformat(text).timestamp()
    except OverflowError as error:
        raise ValueError(str(error)) from error
    return text


class FileRecord(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0, lt=2**50)]


class Manifest(BaseModel):
    """Content of `manifest.json`, the record of a finished stage."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")
    stage: str
    fingerprint: str
    config: dict[str, object]
    inputs: dict[str, str]
    files: dict[PlainPath, FileRecord]
    metrics: dict[str, float]
    versions: dict[str, str]
    seed: int
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    device: str
    processes: int
    finished_at: Annotated[str, AfterValidator(_moment)]


def artifact_files(folder: Path) -> Iterator[Path]:
    """The files of `folder` that belong to the artifact, sorted by path."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        is_bookkeeping = relative.parts[0] in (MANIFEST, REQUEST, LOG, CHECKPOINTS) or relative.parts[0].startswith(".")
        if path.is_file() and not is_bookkeeping:
            yield path


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished artifact, or None if it is missing or not intact."""
    return parse_manifest(read_small_file(folder / MANIFEST))


def read_small_file(path: Path) -> bytes | None:
    """Content of a manifest or another file of bookkeeping, or None if no file there can be one.

    Raises UserError if this user may not read it.
    """
    try:
        return read_regular_file(path, MAX_MANIFEST_BYTES)
    except UserError as error:
        if isinstance(error.__cause__, PermissionError):
            raise
        return None


def parse_manifest(content: bytes | None) -> Manifest | None:
    """The manifest with this content, or None if it is missing, not intact or names files outside its artifact."""
    if content is None or len(content) > MAX_MANIFEST_BYTES:
        return None
    with suppress(MalformedJsonError, ValidationError):
        return Manifest.model_validate(parse_json(content))
    return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Declare the stage in `folder` finished.  Call this last."""
    write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2))


def record_files(folder: Path) -> dict[str, FileRecord]:
    """sha256 and size of every file of the artifact in `folder`.

    Raises UserError for a link that leads out of it, or a name that no manifest may contain.
    """
    paths = [path_inside(folder, path.relative_to(folder).as_posix()) for path in artifact_files(folder)]
    return {
        path.relative_to(folder).as_posix(): FileRecord(sha256=file_sha256(path), size=path.stat().st_size)
        for path in paths
    }


def verify(folder: Path, *, thorough: bool = False) -> list[str]:
    """Compare the artifact in `folder` with its manifest; returns one line per wrong file, none if all are intact.

    A file with the size and time stamp of its last verification counts as unchanged, unless `thorough`.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return [f"{folder / MANIFEST}: missing or not intact"]
    known_stamps = {} if thorough else _read_stat_cache(folder)
    problems, stamps = [], {}
    for name, record in manifest.files.items():
        try:
            path = path_inside(folder, name)
        except UserError as error:
            problems.append(str(error))
            continue
        if not path.is_file():
            problems.append(f"{path}: missing")
            continue
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns, record.sha256]
        if status.st_size != record.size:
            problems.append(f"{path}: {status.st_size} bytes, but the manifest says {record.size}")
        elif known_stamps.get(name) == stamp or file_sha256(path) == record.sha256:
            stamps[name] = stamp
        else:
            problems.append(f"{path}: sha256 differs from the manifest")
    if stamps != known_stamps and os.access(folder, os.W_OK):
        write_atomically(folder / STAT_CACHE, json.dumps(stamps))
    return problems


def _read_stat_cache(folder: Path) -> dict[str, object]:
    with suppress(MalformedJsonError):
        cached = parse_json(read_small_file(folder / STAT_CACHE) or b"")
        return cached if isinstance(cached, dict) else {}
    return {}


class Store:
    """Artifacts below one folder, and the published results of runs next to it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, stage: str, fingerprint: str) -> Path:
        """Folder of an artifact, whether or not it exists yet.  Raises UserError if one is not a plain name."""
        return self._below(self._below(self.root, stage), fingerprint)

    def manifest(self, stage: str, fingerprint: str) -> Manifest | None:
        """The manifest of an artifact, or None if it is not finished."""
        return read_manifest(self.folder(stage, fingerprint))

    def verify(self, stage: str, fingerprint: str) -> list[str]:
        """Compare an artifact with its manifest; returns one line per wrong file, none if it is finished and intact."""
        return verify(self.folder(stage, fingerprint))

    @contextmanager
    def local_copies(self, _folders: Iterable[Path], /) -> Iterator[None]:
        """Ensure that these folders exist locally inside the `with` block.  A no-op for local workspaces."""
        yield

    @contextmanager
    def exclusive(self, stage: str, fingerprint: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Keep other runs from making this artifact inside the `with` block, after waiting for one that makes it.

        Also waits for a stage process that has outlived its run.  `on_wait` is called again and again meanwhile; what
        it raises ends the wait.
        """
        folder = self.folder(stage, fingerprint)
        with locked_when_free(folder.with_name(f".{fingerprint}{RUN_LOCK}"), on_wait):
            if (folder / STAGE_LOCK).exists():
                with locked_when_free(folder / STAGE_LOCK, on_wait):
                    pass
            yield

    def artifacts(self) -> list[Path]:
        """Folders of all artifacts, finished or not."""
        return sorted(path for path in self.root.glob("*/*") if path.is_dir() and not path.name.startswith(REMOVED))

    def verify_all(self) -> dict[str, list[str] | None]:
        """Hash every file of every artifact; returns the problems of each, None for one that is not finished."""
        return {
            str(folder): verify(folder, thorough=True) if (folder / MANIFEST).exists() else None
            for folder in self.artifacts()
        }

    def require_writable(self) -> None:
        """Raise the operating system's error if nothing can be written next to the artifacts.

        Raises UserError if the workspace is a file.
        """
        workspace = self.root.parent
        if workspace.exists() and not workspace.is_dir():
            raise UserError(f"{workspace}: not a folder; name another one with --workspace")
        workspace.mkdir(parents=True, exist_ok=True)
        probe = workspace / f".probe.{os.getpid()}"
        try:
            probe.write_bytes(b"\0" * 4096)
        finally:
            probe.unlink(missing_ok=True)

    def run_folder(self, name: str) -> Path:
        """Local folder in which the run of that name publishes its results.

        Raises UserError if it is not a plain name.
        """
        return self._below(self.root.parent, name)

    def runs(self, published: str) -> list[str]:
        """Names of the runs that have published a file of this name."""
        names = [path.parent.name for path in self.root.parent.glob(f"*/{published}")]
        return sorted(name for name in names if is_plain_name(name))

    def pull(self, _folder: Path, _names: Iterable[str], /) -> None:
        """Download the named files of a run's folder.  A no-op for local workspaces."""

    def push(self, _folder: Path, _names: Iterable[str], /) -> str | None:
        """Upload the named files of a run's folder; returns their URI, or None for a local workspace."""
        return None

    @staticmethod
    def _below(folder: Path, name: str) -> Path:
        if not is_plain_name(name):
            raise UserError(f"{folder}: {name[:200]!r} is not the plain name of a folder in it; `rlhf run` makes such")
        return folder / name
