"""Prefect's records of finished stages, next to their artifacts in a folder or in S3, read as data and nothing else.

Prefect stores with each record how to read it: a serializer, which may be pickle, and the names of functions and
classes.  Whoever can write to a shared workspace could thus run code on every machine that reads it.  So nothing that
a record says of itself is passed on to Prefect: its values are checked and a new record is made of them.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from prefect.filesystems import WritableFileSystem
from prefect.utilities.asyncutils import sync_compatible
from pydantic import BaseModel, ConfigDict, ValidationError

from rlhf.runs.cleanup import RECORD, RECORDS
from rlhf.storage.files import write_atomically
from rlhf.storage.fingerprints import digest
from rlhf.storage.s3 import S3
from rlhf.storage.s3_store import ARTIFACTS, open_s3_store
from rlhf.storage.untrusted import MalformedJsonError, parse_json, path_inside, read_regular_file

MAX_RECORD_BYTES = 2**20
"""Larger ones are not records: a real one has some hundred bytes."""


class StageRecord(BaseModel):
    """What Prefect stores of a finished stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    fingerprint: str
    uri: str
    """Path of the artifact, relative to the workspace."""
    seconds: float
    metrics: dict[str, float]


class RecordStorage(WritableFileSystem):
    """The records of one workspace, as Prefect reads and writes them."""

    _block_type_name = "RLHF stage records"
    _block_type_slug = "rlhf-stage-records"
    workspace: str
    """A folder, or s3://bucket/prefix."""

    @sync_compatible
    async def read_path(self, path: str) -> bytes:
        """Called by Prefect: `read`."""
        return self.read(path)

    @sync_compatible
    async def write_path(self, path: str, content: bytes) -> None:
        """Called by Prefect: `write`."""
        self.write(path, content)

    def read(self, key: str) -> bytes:
        """A record, rebuilt from its values.  Raises ValueError, as Prefect expects, if there is no valid one."""
        record = None
        if RECORD.fullmatch(key):
            with suppress(ValueError):
                record = parse_record(self._content(key), key)
        if record is None:
            raise ValueError(f"{self.workspace}/{RECORDS}/{key[:200]}: no such record")
        name = f"{StageRecord.__module__}.{StageRecord.__qualname__}"
        return json.dumps(
            {
                "metadata": {"storage_key": key, "serializer": {"type": "json"}},
                "result": json.dumps({"__class__": name, "data": record.model_dump()}),
            }
        ).encode()

    def write(self, key: str, content: bytes) -> None:
        """Write a record.  Errors of failed stages are not written: nobody reads them."""
        if not RECORD.fullmatch(key):
            return
        if self.workspace.startswith(S3):
            open_s3_store(self.workspace).bucket.write(f"{RECORDS}/{key}", content)
            return
        file = path_inside(Path(self.workspace), f"{RECORDS}/{key}")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)

    def _content(self, key: str) -> bytes:
        if self.workspace.startswith(S3):
            return open_s3_store(self.workspace).bucket.read(f"{RECORDS}/{key}", MAX_RECORD_BYTES) or b""
        return read_regular_file(path_inside(Path(self.workspace), f"{RECORDS}/{key}"), MAX_RECORD_BYTES)


def saved_record_storage(workspace: str) -> RecordStorage:
    """The records of a workspace, saved on the Prefect server as it requires of result storage."""
    storage = RecordStorage(workspace=workspace)
    storage.save(f"workspace-{digest(workspace)[:12]}", overwrite=True)
    return storage


def parse_record(content: bytes, key: str) -> StageRecord | None:
    """The record that is stored under `key`, STAGE-FINGERPRINT, or None if `content` is no record of that stage."""
    if len(content) > MAX_RECORD_BYTES:
        return None
    try:
        outer = parse_json(content)
        inner = parse_json(outer["result"])
        record = StageRecord.model_validate(inner["data"])
    except (MalformedJsonError, ValidationError, KeyError, TypeError):
        return None
    has_own_names = f"{record.stage}-{record.fingerprint}" == key
    has_own_uri = record.uri == f"{ARTIFACTS}/{record.stage}/{record.fingerprint}"
    # Prefect takes a name like __class__ in any object for an order to make one of that class.
    has_plain_metrics = not any(name.startswith("__") for name in record.metrics)
    return record if has_own_names and has_own_uri and has_plain_metrics else None
