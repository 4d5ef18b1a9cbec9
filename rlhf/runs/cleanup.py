"""Find the files that runs created in a workspace, to list or delete them.

A file is ours if a manifest lists it, if it is one of a stage's bookkeeping files, or if a run publishes it, each
matched by exact path.  Everything else is kept, and so are people's labels, which no run can recreate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ValidationError

from rlhf.config import expand_home
from rlhf.errors import UserError
from rlhf.labeling.ground_truth_job import TEMPLATE
from rlhf.labeling.manifest import MANIFEST_FILE
from rlhf.results.schema import CONFIG, LABELS, REPORT, RESULTS
from rlhf.runtime.stage import StageRequest
from rlhf.stage_config import STAGES
from rlhf.storage.artifacts import LOG, MANIFEST, REQUEST, RUN_LOCK, STAGE_LOCK, STAT_CACHE, parse_manifest
from rlhf.storage.files import PUBLISH_LOCK, REMOVED, locked, write_atomically
from rlhf.storage.s3 import MAX_SMALL_BYTES, S3, Bucket, TooLargeError
from rlhf.storage.s3_lock import is_held
from rlhf.storage.s3_store import ARTIFACTS, INPUTS, LEASES, MACHINE, REMOTE_MANIFEST, UNFINISHED
from rlhf.storage.untrusted import MalformedJsonError, parse_json, read_regular_file

RECORDS = "records"
"""Folder of Prefect's records of finished stages, below the workspace."""
FINGERPRINT = re.compile("[0-9a-f]{16}")
RECORD = re.compile(r"(?P<stage>[a-z_]+)-(?P<fingerprint>[0-9a-f]{16})")
FAILURE = re.compile("[0-9a-f]{32}")
"""Name under which earlier versions stored the error of a failed stage, next to the records of finished ones."""
LOCK = re.compile(rf"\.(?P<fingerprint>[0-9a-f]{{16}}){re.escape(RUN_LOCK)}")
"""Name of the lock of a run that makes an artifact, next to its folder."""
BEING_REMOVED = re.compile(rf"{re.escape(REMOVED)}[0-9a-f]{{32}}")
"""Name of a folder whose removal was interrupted."""
ARTIFACT_FOLDERS = (ARTIFACTS, UNFINISHED, INPUTS)
"""Folders of STAGE/FINGERPRINT, or in `inputs` of FINGERPRINT/NAME, each with a manifest once it is complete."""
BOOKKEEPING_FILES = (MANIFEST, REQUEST, LOG, STAT_CACHE, STAGE_LOCK, REMOTE_MANIFEST)
UNFINISHED_FILES = (
    *(REQUEST, LOG, STAGE_LOCK, REMOTE_MANIFEST, ".manifest.json.*.tmp", "checkpoints/*"),
    *("metrics.jsonl", "validation.jsonl", "summary.json", "evaluation.json", "dropped.json"),
    *("demonstrations.jsonl", "preferences.jsonl", "*_demonstrations.jsonl", "*_preferences.jsonl", "*_prompts.jsonl"),
    *(
        "chosen_scores.jsonl",
        "responses.jsonl",
        "continuations.jsonl",
        "validation_loss.jsonl",
        "response_metrics.jsonl",
    ),
    *("manifest.jsonl", "key.jsonl", RESULTS, "report_data.json", REPORT),
    *("model/config.json", "model/generation_config.json", "model/tokenizer*.json", "model/special_tokens_map.json"),
    *("model/model*.safetensors", "model/model.safetensors.index.json", "model/README.md"),
)
"""Patterns of the files that an interrupted stage may have written next to its request."""
PUBLISHED = (REPORT, RESULTS, CONFIG)
JOBS = "labeling_jobs.json"
"""File in a run's folder: the URIs of the objects that `rlhf label send` put into S3."""
SENT = re.compile(rf"s3://[^/]+/(.+/)?[a-zA-Z0-9-]+/input/({re.escape(MANIFEST_FILE)}|{re.escape(TEMPLATE)})")
"""URI of such an object.  No other URI is ever removed, whatever the file says."""
TRACKER_FILES = "tracker/*/events.out.tfevents.*"
COMPARISON = "compare-*.html"
LABEL_FILES = (LABELS, "labels/*")
"""Files in a run's folder: labels by people."""


class PublishedStage(BaseModel):
    """A stage in results.json of any version."""

    name: str
    fingerprint: str


class Published(BaseModel):
    """The part of results.json, of any version, that names its run and stages."""

    run_name: str
    stages: list[PublishedStage]


class Location(Protocol):
    """A folder or an S3 prefix; names are relative to it, with slashes."""

    @property
    def uri(self) -> str:
        """The location as a user writes it."""

    def names(self) -> list[str]:
        """All files."""

    def read(self, name: str) -> bytes:
        """Content of a small file; empty if it is too large, no ordinary file or has just been removed."""

    def is_in_use(self, name: str) -> bool:
        """Whether a file is a lock that somebody holds."""

    def remove(self, names: list[str]) -> None:
        """Remove files, in the given order."""


@dataclass(frozen=True)
class LocalLocation:
    """A local folder."""

    path: Path

    @property
    def uri(self) -> str:
        """The folder."""
        return str(self.path)

    def names(self) -> list[str]:
        """Files and links; links to folders are not followed."""
        return sorted(
            path.relative_to(self.path).as_posix()
            for path in self.path.rglob("*")
            if path.is_symlink() or not path.is_dir()
        )

    def read(self, name: str) -> bytes:
        """Content of a file or, of what can be no file of a run, nothing."""
        with suppress(UserError):
            return read_regular_file(self.path / name, MAX_SMALL_BYTES)
        return b""

    def is_in_use(self, name: str) -> bool:
        """Whether a file is a lock that a process holds."""
        is_lock = name.endswith((f"/{STAGE_LOCK}", RUN_LOCK, PUBLISH_LOCK)) or name.startswith(f"{LEASES}/")
        try:
            with locked(self.path / name, wait=False) if is_lock else nullcontext():
                return False
        except BlockingIOError:
            return True

    def remove(self, names: list[str]) -> None:
        """Remove files and links, and folders that become empty.

        Raises UserError if a folder has meanwhile become a link that leads out of this one.
        """
        root = self.path.resolve()
        for name in names:
            folder = (self.path / name).parent
            if not folder.resolve().is_relative_to(root):
                raise UserError(f"{folder}: a link that leads out of {self.path}; remove it")
            (self.path / name).unlink(missing_ok=True)
        folders = {parent for name in names for parent in Path(name).parents if parent != Path()}
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            with suppress(OSError):  # not empty
                (self.path / folder).rmdir()


@dataclass(frozen=True)
class S3Location:
    """A prefix of a bucket."""

    bucket: Bucket

    @property
    def uri(self) -> str:
        """The prefix."""
        return self.bucket.uri

    def names(self) -> list[str]:
        """Objects."""
        return sorted(self.bucket.sizes(""))

    def read(self, name: str) -> bytes:
        """Content of an object; empty if it is too large or has just been removed."""
        with suppress(TooLargeError):
            return self.bucket.read(name) or b""
        return b""

    def is_in_use(self, name: str) -> bool:
        """Whether an object is a lock that a machine holds."""
        return name.startswith(f"{LEASES}/") and is_held(self.bucket, name)

    def remove(self, names: list[str]) -> None:
        """Remove objects."""
        self.bucket.remove(names)


def location_at(workspace: str) -> Location:
    """The location that --workspace names.  Raises UserError if it does not exist."""
    if workspace.startswith(S3):
        return S3Location(Bucket(workspace.rstrip("/")))
    folder = Path(expand_home(workspace))
    if not folder.is_dir():
        raise UserError(f"{workspace}: no such folder; name one with --workspace")
    return LocalLocation(folder)


@dataclass
class CleanupPlan:
    """The files of a location by what `rlhf clean` does with them."""

    removable: list[str] = field(default_factory=list)
    """Files that may be removed, in this order: a manifest comes after the files it lists."""
    shared: list[str] = field(default_factory=list)
    """Files of runs that the requested run does not own alone."""
    labels: list[str] = field(default_factory=list)
    """Labels by people; never removed."""
    unknown: list[str] = field(default_factory=list)
    """Files of other origin; never removed."""
    remote: list[str] = field(default_factory=list)
    """URIs of objects that `rlhf label send` put into S3."""


def plan_cleanup(location: Location, run: str | None = None) -> CleanupPlan:
    """Sort the files of `location`: removable are those of all runs, or those that only the run `run` owns.

    Raises UserError if there is no such run, or if a stage is writing right now.
    """
    names = location.names()
    owners = dict(_files_of_runs(location, names))
    runs = {owner.run for owner in owners.values() if owner.run}
    if run is not None and run not in runs:
        raise UserError(f"{location.uri}: no run {run}; there are {', '.join(sorted(runs)) or 'none'}")
    exclusive = _exclusive_artifacts(location, run, owners) if run is not None else None
    plan = CleanupPlan()
    for name in names:
        owner = owners.get(name)
        if owner is None:
            plan.unknown.append(name)
        elif owner.labels:
            plan.labels.append(name)
        elif exclusive is None or owner.run == run or owner.artifact in exclusive:
            plan.removable.append(name)
        else:
            plan.shared.append(name)
    plan.removable.sort(key=lambda name: (_removed_last(name), name))
    plan.remote = [
        uri
        for name in plan.removable
        if owners[name].run and name.endswith(f"/{JOBS}")
        for uri in _read_uris(location.read(name))
    ]
    for name in plan.removable:
        if location.is_in_use(name):
            raise UserError(f"{location.uri}/{name}: a run is using it; wait for its end or stop it")
    return plan


def runs_of(location: Location) -> set[str]:
    """Names of the runs published in a location."""
    return {owner.run for _, owner in _files_of_runs(location, location.names()) if owner.run}


def remove(location: Location, plan: CleanupPlan) -> None:
    """Remove the removable and remote files of a plan."""
    for uri in plan.remote:
        folder, _, name = uri.rpartition("/")
        Bucket(folder).remove([name])
    location.remove(plan.removable)


@dataclass(frozen=True)
class FileOwner:
    """The owner of a file: an artifact, a run, or neither if all runs of the workspace share it."""

    artifact: str = ""
    """STAGE/FINGERPRINT, or the fingerprint of an input."""
    run: str = ""
    """Name of the run that published it."""
    labels: bool = False


def _files_of_runs(location: Location, names: list[str]) -> Iterator[tuple[str, FileOwner]]:
    """Every file that a run created, with its owner."""
    artifact_files: dict[tuple[str, str, str], list[str]] = {}
    run_files: dict[str, list[str]] = {}
    for name in names:
        parts = name.split("/")
        owner = _owner_of_bookkeeping(location, name)
        if owner is not None:
            yield name, owner
        elif parts[0] in ARTIFACT_FOLDERS and len(parts) > 3:
            artifact_files.setdefault((parts[0], parts[1], parts[2]), []).append("/".join(parts[3:]))
        elif len(parts) > 1 and parts[0] not in (*ARTIFACT_FOLDERS, RECORDS, LEASES):
            run_files.setdefault(parts[0], []).append("/".join(parts[1:]))
    for (part, first, second), files in artifact_files.items():
        artifact = first if part == INPUTS else f"{first}/{second}"
        for name in _owned_in_artifact(location, part, first, second, files):
            yield f"{part}/{first}/{second}/{name}", FileOwner(artifact=artifact)
    for run, files in run_files.items():
        for name, owner in _owned_in_run(location, run, files):
            yield f"{run}/{name}", owner


def _owner_of_bookkeeping(location: Location, name: str) -> FileOwner | None:
    """The owner of a record, lock, comparison or leftover of a removal; None for any other file."""
    match name.split("/"):
        case [file] if fnmatch(file, COMPARISON) or fnmatch(file, f".*{PUBLISH_LOCK}"):
            return FileOwner()
        case [folder, file] if folder == RECORDS:
            return _owner_of_record(location, file)
        case [folder, file] if folder == LEASES and (file.startswith(ARTIFACT_FOLDERS) or file == MACHINE):
            return FileOwner()
        case [part, stage, file] if part == ARTIFACTS and stage in STAGES and (lock := LOCK.fullmatch(file)):
            return FileOwner(artifact=f"{stage}/{lock['fingerprint']}")
        case [part, _, folder, _, *_] if part in ARTIFACT_FOLDERS and BEING_REMOVED.fullmatch(folder):
            return FileOwner()
    return None


def _owner_of_record(location: Location, file: str) -> FileOwner | None:
    record = RECORD.fullmatch(file)
    if record and record["stage"] in STAGES:
        return FileOwner(artifact=f"{record['stage']}/{record['fingerprint']}")
    is_failure = FAILURE.fullmatch(file) and _is_failure(location.read(f"{RECORDS}/{file}"), file)
    return FileOwner() if is_failure else None


def _owned_in_artifact(location: Location, part: str, first: str, second: str, names: list[str]) -> list[str]:
    stage, fingerprint = (part, first) if part == INPUTS else (first, second)
    if not FINGERPRINT.fullmatch(fingerprint) or (part != INPUTS and stage not in STAGES):
        return []
    folder = f"{part}/{first}/{second}"
    if MANIFEST in names:
        manifest = parse_manifest(location.read(f"{folder}/{MANIFEST}"))
        # In S3, the manifest of an unfinished stage names the folder `unfinished` as its stage.
        if manifest is None or manifest.fingerprint != fingerprint or manifest.stage not in (stage, part):
            return []
        return [name for name in names if name in manifest.files or name in BOOKKEEPING_FILES]
    if REQUEST in names and _is_request(location.read(f"{folder}/{REQUEST}"), stage, fingerprint):
        return [name for name in names if any(fnmatch(name, pattern) for pattern in UNFINISHED_FILES)]
    return []


def _owned_in_run(location: Location, run: str, names: list[str]) -> Iterator[tuple[str, FileOwner]]:
    results = _results(location, run) if RESULTS in names else None
    if results is None or results.run_name != run:
        return
    exported = next((stage.fingerprint for stage in results.stages if stage.name == "export_model"), "")
    manifest = parse_manifest(location.read(f"{ARTIFACTS}/export_model/{exported}/{MANIFEST}"))
    model_files = set(manifest.files) if manifest else set()
    for name in names:
        if any(fnmatch(name, pattern) for pattern in LABEL_FILES):
            yield name, FileOwner(run=run, labels=True)
        elif name in PUBLISHED or name == JOBS or name in model_files or fnmatch(name, TRACKER_FILES):
            yield name, FileOwner(run=run)


def _exclusive_artifacts(location: Location, run: str, owners: dict[str, FileOwner]) -> set[str]:
    """Artifacts and inputs that only this run uses."""
    used = {owner.run: _artifacts_of(location, owner.run) for owner in owners.values() if owner.run}
    others = [artifacts for name, artifacts in used.items() if name != run]
    return used[run].difference(*others)


def _artifacts_of(location: Location, run: str) -> set[str]:
    """Artifacts and inputs that a run uses."""
    results = _results(location, run)
    assert results is not None
    artifacts = {f"{stage.name.partition('[')[0]}/{stage.fingerprint}" for stage in results.stages}
    inputs = set()
    for artifact in artifacts:
        manifest = parse_manifest(location.read(f"{ARTIFACTS}/{artifact}/{MANIFEST}"))
        inputs |= set(manifest.inputs.values()) if manifest else set()
    return artifacts | inputs


def _removed_last(name: str) -> bool:
    """Whether this file identifies other files, so that it must be removed after them."""
    parts = name.split("/")
    return parts[-1] in (RESULTS, JOBS) or (parts[0] in ARTIFACT_FOLDERS and parts[3:] in ([MANIFEST], [REQUEST]))


def record_objects(folder: Path, uris: list[str]) -> None:
    """Record in a run's folder the URIs of objects that were put into S3 for it."""
    path = folder / JOBS
    known = _read_uris(LocalLocation(folder).read(JOBS))
    write_atomically(path, json.dumps(sorted({*known, *uris}), indent=2) + "\n")


def _read_uris(content: bytes) -> list[str]:
    """URIs that `record_objects` has written."""
    with suppress(MalformedJsonError):
        listed = parse_json(content)
        if isinstance(listed, list):
            return [uri for uri in listed if isinstance(uri, str) and SENT.fullmatch(uri)]
    return []


def _results(location: Location, run: str) -> Published | None:
    with suppress(ValidationError):
        return Published.model_validate_json(location.read(f"{run}/{RESULTS}"))
    return None


def _is_failure(content: bytes, name: str) -> bool:
    with suppress(MalformedJsonError, KeyError, TypeError):
        return str(parse_json(content)["metadata"]["storage_key"]).rpartition("/")[2] == name
    return False


def _is_request(content: bytes, stage: str, fingerprint: str) -> bool:
    with suppress(ValidationError):
        request = StageRequest.model_validate_json(content)
        return (request.stage, request.fingerprint) == (stage, fingerprint)
    return False
