"""What runs of this product left in a workspace, told apart from everything else that lies there.

Ours is what a manifest of ours lists, the files beside it that stages themselves write, and what a run publishes: each
by its exact place and name.  Everything else is foreign and stays, as do people's answers, which no run can make again.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ValidationError

from rlhf.errors import UserError
from rlhf.results.schema import CONFIG, LABELS, REPORT, RESULTS
from rlhf.runtime.stage import StageRequest
from rlhf.storage.artifacts import LOG, MANIFEST, REQUEST, Manifest
from rlhf.storage.files import write_atomically
from rlhf.storage.s3 import S3, Bucket

FINGERPRINT = re.compile("[0-9a-f]{16}")
RECORD = re.compile(r"(?P<stage>[a-z_]+)-(?P<fingerprint>[0-9a-f]{16})")
FAILURE = re.compile("[0-9a-f]{32}")
"""Name by which Prefect keeps the error of a stage, beside the records of those that ended well."""
STEPS = (
    "prepare_model",
    "prepare_data",
    "train_sft",
    "train_reward",
    "train_ppo",
    "generate_responses",
    "score_toxicity",
    "compare_policies",
    "export_labeling_manifest",
    "aggregate_results",
    "export_model",
)
BUNDLES = ("artifacts", "unfinished", "inputs")
"""Folders of STEP/FINGERPRINT, or in `inputs` of FINGERPRINT/NAME, each with a manifest once it is whole."""
BESIDE_A_MANIFEST = (MANIFEST, REQUEST, LOG, ".stat.json", ".lock", ".s3")
UNFINISHED = (
    *(REQUEST, LOG, ".lock", ".s3", ".manifest.json.*.tmp", "checkpoints/*"),
    *("metrics.jsonl", "validation.jsonl", "summary.json", "evaluation.json", "left_out.json"),
    *("demonstrations.jsonl", "preferences.jsonl", "*_demonstrations.jsonl", "*_preferences.jsonl", "*_prompts.jsonl"),
    *("chosen_scores.jsonl", "responses.jsonl", "continuations.jsonl", "held_out.jsonl", "answers.jsonl"),
    *("manifest.jsonl", "key.jsonl", RESULTS, "evidence.json", REPORT),
    *("model/config.json", "model/generation_config.json", "model/tokenizer*.json", "model/special_tokens_map.json"),
    *("model/model*.safetensors", "model/model.safetensors.index.json", "model/README.md"),
)
"""What a stage that did not end may have left beside its request."""
PUBLISHED = (REPORT, RESULTS, CONFIG)
JOBS = "labeling_jobs.json"
"""In a run's folder: the objects that `rlhf label send` has put into S3, as a list of uris."""
TRACKED = "tracker/*/events.out.tfevents.*"
COMPARISON = "compare-*.html"
PEOPLES = (LABELS, "labels/*")
"""In a run's folder: what people said."""


class PublishedStep(BaseModel):
    """A stage in results.json, of whichever version."""

    name: str
    fingerprint: str


class Published(BaseModel):
    """What results.json of any version says of whose it is."""

    run_name: str
    stages: list[PublishedStep]


class Place(Protocol):
    """A folder or a prefix; names are relative to it, with slashes."""

    @property
    def uri(self) -> str:
        """The place as a person writes it."""

    def names(self) -> list[str]:
        """Everything that lies there."""

    def read(self, name: str) -> bytes:
        """Content of a small file."""

    def remove(self, names: list[str]) -> None:
        """Remove files, in their order."""


@dataclass(frozen=True)
class Folder:
    """A folder of this machine."""

    path: Path

    @property
    def uri(self) -> str:
        """The folder."""
        return str(self.path)

    def names(self) -> list[str]:
        """Files and links; what lies behind a link to a folder is somewhere else."""
        return sorted(
            found.relative_to(self.path).as_posix()
            for found in self.path.rglob("*")
            if found.is_symlink() or not found.is_dir()
        )

    def read(self, name: str) -> bytes:
        """Content of a file."""
        return (self.path / name).read_bytes()

    def remove(self, names: list[str]) -> None:
        """Remove files, and the folders that have become empty by it."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)
        folders = {parent for name in names for parent in Path(name).parents if parent != Path()}
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            with suppress(OSError):  # not empty
                (self.path / folder).rmdir()


@dataclass(frozen=True)
class Prefix:
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
        """Content of an object; nothing where it has just gone."""
        return self.bucket.read(name) or b""

    def remove(self, names: list[str]) -> None:
        """Remove objects."""
        self.bucket.remove(names)


def place_at(workspace: str) -> Place:
    """The place behind --workspace.  Raises UserError where there is none."""
    if workspace.startswith(S3):
        return Prefix(Bucket(workspace.rstrip("/")))
    if not Path(workspace).is_dir():
        raise UserError(f"{workspace}: no such folder; name one with --workspace")
    return Folder(Path(workspace))


@dataclass
class Found:
    """What lies in a place."""

    ours: list[str] = field(default_factory=list)
    """In the order in which they may be removed: a manifest goes after what it lists."""
    shared: list[str] = field(default_factory=list)
    """Ours, but not of the run that was asked for alone."""
    peoples: list[str] = field(default_factory=list)
    """People's answers."""
    foreign: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    """Objects in S3 that `rlhf label send` has put there, by uri."""


def survey(place: Place, run: str | None = None) -> Found:
    """What lies in `place`, and what of it is ours: all of it, or what only the run of that name has made.

    Raises UserError where there is no such run, or where a stage is writing at this moment.
    """
    names = place.names()
    owners = dict(_owned(place, names))
    runs = {owner.run for owner in owners.values() if owner.run}
    if run is not None and run not in runs:
        raise UserError(f"{place.uri}: no run {run}; there are {', '.join(sorted(runs)) or 'none'}")
    wanted = _bundles_of(place, run, owners) if run is not None else None
    found = Found()
    for name in names:
        owner = owners.get(name)
        if owner is None:
            found.foreign.append(name)
        elif owner.peoples:
            found.peoples.append(name)
        elif wanted is None or owner.run == run or owner.bundle in wanted:
            found.ours.append(name)
        else:
            found.shared.append(name)
    found.ours.sort(key=lambda name: (_is_last(name), name))
    found.elsewhere = [
        uri
        for name in found.ours
        if owners[name].run and name.endswith(f"/{JOBS}")
        for uri in _listed(place.read(name))
    ]
    if isinstance(place, Folder):
        _refuse_running(place, found.ours)
    return found


def runs_of(place: Place) -> set[str]:
    """Names of the runs that are published in a place."""
    return {owner.run for _, owner in _owned(place, place.names()) if owner.run}


def remove(place: Place, found: Found) -> None:
    """Remove what `survey` has found to be ours."""
    for uri in found.elsewhere:
        folder, _, name = uri.rpartition("/")
        Bucket(folder).remove([name])
    place.remove(found.ours)


@dataclass(frozen=True)
class Owner:
    """Whose a file is."""

    bundle: str = ""
    """STEP/FINGERPRINT, or the fingerprint of an input."""
    run: str = ""
    """Name of the run whose published result it is."""
    peoples: bool = False


def _owned(place: Place, names: list[str]) -> Iterator[tuple[str, Owner]]:
    """Every file that is ours."""
    within: dict[tuple[str, str, str], list[str]] = {}
    runs: dict[str, list[str]] = {}
    for name in names:
        parts = name.split("/")
        if parts[0] in BUNDLES and len(parts) > 3:
            within.setdefault((parts[0], parts[1], parts[2]), []).append("/".join(parts[3:]))
        elif parts[0] == "records" and len(parts) == 2:
            record = RECORD.fullmatch(parts[1])
            if record and record["stage"] in STEPS:
                yield name, Owner(bundle=f"{record['stage']}/{record['fingerprint']}")
            elif FAILURE.fullmatch(parts[1]) and _is_failure(place.read(name), parts[1]):
                yield name, Owner()
        elif (parts[0] == "leases" and len(parts) == 2 and parts[1].startswith(BUNDLES)) or (
            len(parts) == 1 and fnmatch(name, COMPARISON)
        ):
            yield name, Owner()
        elif len(parts) > 1 and parts[0] not in (*BUNDLES, "records", "leases"):
            runs.setdefault(parts[0], []).append("/".join(parts[1:]))
    for (part, first, second), inside in within.items():
        bundle = first if part == "inputs" else f"{first}/{second}"
        for name in _of_bundle(place, part, first, second, inside):
            yield f"{part}/{first}/{second}/{name}", Owner(bundle=bundle)
    for run, inside in runs.items():
        for name, owner in _of_run(place, run, inside):
            yield f"{run}/{name}", owner


def _of_bundle(place: Place, part: str, first: str, second: str, names: list[str]) -> list[str]:
    stage, fingerprint = (part, first) if part == "inputs" else (first, second)
    if not FINGERPRINT.fullmatch(fingerprint) or (part != "inputs" and stage not in STEPS):
        return []
    folder = f"{part}/{first}/{second}"
    if MANIFEST in names:
        manifest = _parse_manifest(place.read(f"{folder}/{MANIFEST}"))
        # An unfinished bundle in S3 says so where an artifact says its stage.
        if manifest is None or manifest.fingerprint != fingerprint or manifest.stage not in (stage, part):
            return []
        return [name for name in names if name in manifest.files or name in BESIDE_A_MANIFEST]
    if REQUEST in names and _is_request(place.read(f"{folder}/{REQUEST}"), stage, fingerprint):
        return [name for name in names if any(fnmatch(name, pattern) for pattern in UNFINISHED)]
    return []


def _of_run(place: Place, run: str, names: list[str]) -> Iterator[tuple[str, Owner]]:
    results = _results(place, run) if RESULTS in names else None
    if results is None or results.run_name != run:
        return
    exported = next((stage.fingerprint for stage in results.stages if stage.name == "export_model"), "")
    manifest = _content(place, f"artifacts/export_model/{exported}/{MANIFEST}")
    model = _parse_manifest(manifest)
    placed = set(model.files) if model else set()
    for name in names:
        if any(fnmatch(name, pattern) for pattern in PEOPLES):
            yield name, Owner(run=run, peoples=True)
        elif name in PUBLISHED or name == JOBS or name in placed or fnmatch(name, TRACKED):
            yield name, Owner(run=run)


def _bundles_of(place: Place, run: str, owners: dict[str, Owner]) -> set[str]:
    """Artifacts and inputs that this run has used and no other."""
    used = {owner.run: _used(place, owner.run) for owner in owners.values() if owner.run}
    others = [bundles for name, bundles in used.items() if name != run]
    return used[run].difference(*others)


def _used(place: Place, run: str) -> set[str]:
    results = _results(place, run)
    assert results is not None
    bundles = {f"{stage.name.partition('[')[0]}/{stage.fingerprint}" for stage in results.stages}
    inputs = set()
    for bundle in bundles:
        manifest = _parse_manifest(_content(place, f"artifacts/{bundle}/{MANIFEST}"))
        inputs |= set(manifest.inputs.values()) if manifest else set()
    return bundles | inputs


def _is_last(name: str) -> bool:
    """Whether other files are known to be ours by this one, so that it goes after them."""
    parts = name.split("/")
    return parts[-1] in (RESULTS, JOBS) or (parts[0] in BUNDLES and parts[3:] in ([MANIFEST], [REQUEST]))


def _refuse_running(folder: Folder, names: Iterable[str]) -> None:
    for name in names:
        if name.endswith("/.lock") or name.startswith("leases/"):
            with (folder.path / name).open("a") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise UserError(f"{folder.path / name}: a run is using it; wait for its end or stop it") from None


def record_objects(folder: Path, uris: list[str]) -> None:
    """Remember in a run's folder what was put into S3 for it."""
    path = folder / JOBS
    known = _listed(path.read_bytes()) if path.is_file() else []
    write_atomically(path, json.dumps(sorted({*known, *uris}), indent=2) + "\n")


def _listed(content: bytes) -> list[str]:
    """Objects that `record_objects` has remembered."""
    with suppress(ValueError):
        listed = json.loads(content)
        if isinstance(listed, list):
            return [uri for uri in listed if isinstance(uri, str) and uri.startswith(S3) and uri.count("/") > 2]
    return []


def _results(place: Place, run: str) -> Published | None:
    with suppress(ValidationError):
        return Published.model_validate_json(place.read(f"{run}/{RESULTS}"))
    return None


def _content(place: Place, name: str) -> bytes:
    with suppress(FileNotFoundError):
        return place.read(name)
    return b""


def _parse_manifest(content: bytes) -> Manifest | None:
    with suppress(ValidationError):
        return Manifest.model_validate_json(content)
    return None


def _is_failure(content: bytes, name: str) -> bool:
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(content)["metadata"]["storage_key"]).rpartition("/")[2] == name
    return False


def _is_request(content: bytes, stage: str, fingerprint: str) -> bool:
    with suppress(ValidationError):
        request = StageRequest.model_validate_json(content)
        return (request.stage, request.fingerprint) == (stage, fingerprint)
    return False
