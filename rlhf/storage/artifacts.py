"""Artifacts: the finished output of a stage, under a fingerprint of all that it depends on.

`artifacts/<stage>/<fingerprint>/` holds the stage's files and, written last, `manifest.json` with the sha256 of every
one.  No manifest: not finished.  The fingerprint hashes the stage's settings, the fingerprints of its inputs and the
sources that the stage runs; a rerun therefore writes to the same place and resumes there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rlhf.storage.files import file_sha256, write_atomically

MANIFEST = "manifest.json"
REQUEST = "request.json"
LOG = "log.txt"
STAT_CACHE = ".stat.json"
CHECKPOINTS = "checkpoints"
"""Folder of an unfinished stage's checkpoints; it is gone once the manifest is written."""


class FileRecord(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)
    sha256: str
    size: int


class Manifest(BaseModel):
    """What `manifest.json` says of a finished stage."""

    model_config = ConfigDict(frozen=True)
    stage: str
    fingerprint: str
    config: dict[str, object]
    inputs: dict[str, str]
    files: dict[str, FileRecord]
    metrics: dict[str, float]
    versions: dict[str, str]
    seed: int
    seconds: float
    device: str
    processes: int
    finished_at: str


def artifact_files(folder: Path) -> Iterator[Path]:
    """The files of `folder` that belong to the artifact, sorted by path."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        is_ours = relative.parts[0] in (MANIFEST, REQUEST, LOG, CHECKPOINTS) or relative.parts[0].startswith(".")
        if path.is_file() and not is_ours:
            yield path


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished artifact, or None where there is none or it is not whole."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Declare the stage in `folder` finished.  Call it last."""
    write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2))


def record_files(folder: Path) -> dict[str, FileRecord]:
    """sha256 and size of every file of the artifact in `folder`."""
    return {
        path.relative_to(folder).as_posix(): FileRecord(sha256=file_sha256(path), size=path.stat().st_size)
        for path in artifact_files(folder)
    }


def damage(folder: Path, *, thorough: bool = False) -> list[str]:
    """What is wrong with the artifact in `folder`, one line a file; empty where every file is as the manifest says.

    A file whose size and time stamp are those of its last check is taken as unchanged, unless `thorough`.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return [f"{folder / MANIFEST}: missing or not whole"]
    checked = {} if thorough else _read_stat_cache(folder)
    problems, stamps = [], {}
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{path}: missing")
            continue
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns, record.sha256]
        if status.st_size != record.size:
            problems.append(f"{path}: {status.st_size} bytes where the manifest says {record.size}")
        elif checked.get(name) == stamp or file_sha256(path) == record.sha256:
            stamps[name] = stamp
        else:
            problems.append(f"{path}: sha256 differs from the manifest")
    if stamps != checked and os.access(folder, os.W_OK):
        write_atomically(folder / STAT_CACHE, json.dumps(stamps))
    return problems


def _read_stat_cache(folder: Path) -> dict[str, list[object]]:
    try:
        cached = json.loads((folder / STAT_CACHE).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return cached if isinstance(cached, dict) else {}


class Store:
    """Artifacts under one folder, and beside it what runs publish."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, stage: str, fingerprint: str) -> Path:
        """Where the artifact of `stage` with `fingerprint` lies or will lie."""
        return self.root / stage / fingerprint

    def manifest(self, stage: str, fingerprint: str) -> Manifest | None:
        """The manifest of an artifact, or None where it is not finished."""
        return read_manifest(self.folder(stage, fingerprint))

    def problems(self, stage: str, fingerprint: str) -> list[str]:
        """What is wrong with an artifact, one line a file; empty where it is finished and whole."""
        return damage(self.folder(stage, fingerprint))

    @contextmanager
    def at_hand(self, _folders: Iterable[Path], /) -> Iterator[None]:
        """Have what lies at these places on this machine while the body runs: in a folder it always is."""
        yield

    def artifacts(self) -> list[Path]:
        """Folders of all artifacts, finished or not."""
        return sorted(path for path in self.root.glob("*/*") if path.is_dir())

    def run_folder(self, name: str) -> Path:
        """Where the run of that name publishes its results, on this machine."""
        return self.root.parent / name

    def runs(self, published: str) -> list[str]:
        """Names of the runs that have published a file of this name."""
        return sorted(path.parent.name for path in self.root.parent.glob(f"*/{published}"))

    def take(self, _folder: Path, _names: Iterable[str], /) -> None:
        """Bring published files of a run to its folder on this machine: here they always are."""

    def share(self, _folder: Path, _names: Iterable[str], /) -> str | None:
        """Put files of a run's folder where everybody finds them; returns where that is if it is another place."""
        return None
