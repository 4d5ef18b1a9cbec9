"""Artifacts: the finished output of a step, under a fingerprint of all that it depends on.

`artifacts/<step>/<fingerprint>/` holds the step's files and, written last, `manifest.json` with the sha256 of every
one.  No manifest: not finished.  The fingerprint hashes the step's settings, the fingerprints of its inputs and the
sources that the step runs; a rerun therefore writes to the same place and resumes there.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

import rlhf
from rlhf.config import DEMONSTRATION, HUB, Settings
from rlhf.errors import InputError

MANIFEST = "manifest.json"
REQUEST = "request.json"
LOG = "log.txt"
STAT_CACHE = ".stat.json"
CHECKPOINTS = "checkpoints"
"""Folder of an unfinished stage's checkpoints; it is gone once the manifest is written."""
LOCATIONS = {
    "data": ("source",),
    "model": ("path",),
    "reward": ("path",),
    "toxicity": ("prompts", "checkpoint", "checkpoint_config"),
}
"""Settings that name a place: what lies there enters the fingerprint as an input, the place itself does not."""
SETTINGS_MODULES = ("rlhf.config", "rlhf.stage_config")
"""Modules whose source is not part of any fingerprint."""


class FileRecord(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)
    sha256: str
    size: int


class Manifest(BaseModel):
    """What `manifest.json` says of a finished stage."""

    model_config = ConfigDict(frozen=True)
    step: str
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


def digest(value: object) -> str:
    """sha256 of the canonical JSON of `value`, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that `path` holds either the old content or all of the new, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def fingerprint_of(step: str, config: Settings, inputs: Mapping[str, str], module: str) -> str:
    """Fingerprint of a step: 16 hex digits over its settings, its inputs' fingerprints and the sources of `module`."""
    settings = config.model_dump(mode="json")
    for part, names in LOCATIONS.items():
        for name in names:
            if isinstance(settings.get(part), dict) and settings[part].get(name) not in (None, HUB, DEMONSTRATION):
                settings[part][name] = "given"
    return digest([step, settings, dict(inputs), source_digest(module)])[:16]


@cache
def source_digest(module: str) -> str:
    """sha256 over the code of `module` and of every module of this package that it imports, directly or not.

    Code is the syntax tree: comments, layout and docstrings do not count.  The minor version of Python does, since the
    tree differs between versions.  Raises LookupError if there is no such module.
    """
    package = Path(rlhf.__file__).parent
    pending, sources = [module], {}
    while pending:
        name = pending.pop()
        if name in sources:
            continue
        path = _module_file(package, name)
        if path is None:
            raise LookupError(f"{name}: no such module below {package}")
        sources[name], imported = _code(path)
        pending.extend(found for found, is_module in imported if is_module or _module_file(package, found))
    for settings in SETTINGS_MODULES:  # their values are in the fingerprint
        sources.pop(settings, None)
    return digest([sys.version_info[:2], sources])


def _module_file(package: Path, name: str) -> Path | None:
    base = package.joinpath(*name.split(".")[1:])
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


@cache
def _code(path: Path) -> tuple[str, tuple[tuple[str, bool], ...]]:
    """sha256 of a module's code, and what it imports of this package: parsed once for all stages that run it."""
    tree = ast.parse(path.read_bytes())
    imported = tuple(_imports(tree))
    return hashlib.sha256(ast.dump(_WithoutDocstrings().visit(tree)).encode()).hexdigest(), imported


class _WithoutDocstrings(ast.NodeTransformer):
    """Drops every string that stands alone: it has no effect, wherever it is."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """The node, or None if it is such a string."""
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node


def _imports(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Names that a module imports of this package, and whether each must be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "rlhf":
            yield node.module, True
            yield from ((f"{node.module}.{alias.name}", False) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, True) for alias in node.names if alias.name.split(".")[0] == "rlhf")


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

    def folder(self, step: str, fingerprint: str) -> Path:
        """Where the artifact of `step` with `fingerprint` lies or will lie."""
        return self.root / step / fingerprint

    def manifest(self, step: str, fingerprint: str) -> Manifest | None:
        """The manifest of an artifact, or None where it is not finished."""
        return read_manifest(self.folder(step, fingerprint))

    def problems(self, step: str, fingerprint: str) -> list[str]:
        """What is wrong with an artifact, one line a file; empty where it is finished and whole."""
        return damage(self.folder(step, fingerprint))

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


def external_fingerprint(path: Path) -> str:
    """Fingerprint of a user's file or folder, from the names and bytes of its files.

    Raises InputError where there is nothing at `path`.
    """
    if path.is_file():
        return file_sha256(path)[:16]
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []
    if not files:
        raise InputError(f"{path}: no such file, or a folder without files")
    return digest({file.relative_to(path).as_posix(): file_sha256(file) for file in files})[:16]


def place_model(source: Path, folder: Path) -> None:
    """Put the files of the model at `source` into `folder`, which is then whole or not there at all."""
    temporary, replaced = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (temporary, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        link_or_copy(file, temporary / file.name)
    if folder.exists():
        folder.rename(replaced)
    temporary.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link for weights, which nobody edits; a copy of everything else, and where there can be no link."""
    if source.suffix == ".safetensors":
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)
    else:
        shutil.copyfile(source, target)
