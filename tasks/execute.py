"""A stage on the machine that runs it, where machines share nothing but S3: inputs fetched, artifact published."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from prefect.filesystems import WritableFileSystem
from prefect.utilities.asyncutils import sync_compatible

from rlhf.errors import UserError
from rlhf.storage.artifacts import MANIFEST, Store, verify
from rlhf.storage.s3_store import open_s3_store
from tasks.launch import StageCallbacks, StageJob, launch_stage

RECORDS = "records"
"""Prefix of Prefect's records, below the workspace."""


class SharedRecords(WritableFileSystem):
    """Prefect's records of finished stages, in S3 beside their artifacts."""

    _block_type_name = "RLHF records"
    _block_type_slug = "rlhf-records"
    uri: str

    @sync_compatible
    async def read_path(self, path: str) -> bytes:
        """A record; raises ValueError, as Prefect expects, where there is none."""
        content = open_s3_store(self.uri).bucket.read(f"{RECORDS}/{path}")
        if content is None:
            raise ValueError(f"{self.uri}/{RECORDS}/{path}: no such record")
        return content

    @sync_compatible
    async def write_path(self, path: str, content: bytes) -> None:
        """Put a record in place."""
        open_s3_store(self.uri).bucket.write(f"{RECORDS}/{path}", content)


def shared_records(uri: str) -> SharedRecords:
    """The records of a workspace in S3, known to the Prefect server as it wants all result storage to be."""
    records = SharedRecords(uri=uri)
    records.save(open_s3_store(uri).workspace.name, overwrite=True)
    return records


def store_of(job: StageJob) -> Store:
    """Where the artifact of a job is kept, of which its output folder is, or is to be, this machine's copy."""
    return Store(job.output.parent.parent) if job.remote is None else open_s3_store(job.remote.uri)


def execute_locally(job: StageJob, listener: StageCallbacks) -> None:
    """Make the artifact of a job on this machine; nothing runs where it is finished and whole.

    What is left of a damaged artifact is removed before.  With S3, the inputs are fetched and held and what another
    machine left unfinished is taken over; then the artifact is published or, on an error, its checkpoints are.
    Raises what `launch_stage` raises.
    """
    if job.remote is None:
        if _remove_damaged(job.output):
            launch_stage(job, listener)
        return
    store, stage, fingerprint = open_s3_store(job.remote.uri), job.request.stage, job.request.fingerprint
    here = moved(job, job.remote.cache, store.workspace)
    with store.lease(store.artifact_key(here.output)):
        if _remove_damaged(here.output):
            store.restore_unfinished(stage, fingerprint)
            with store.local_copies(given.path for given in here.request.inputs.values()):
                try:
                    launch_stage(here, listener)
                except BaseException:
                    with suppress(UserError):  # the stage's own error matters more
                        store.save_unfinished(stage, fingerprint)
                    raise
        store.publish(stage, fingerprint)


def moved(job: StageJob, old: Path, new: Path) -> StageJob:
    """The job with its paths below `new` instead of `old`."""

    def move(path: Path) -> Path:
        return new / path.relative_to(old)

    inputs = {name: given.model_copy(update={"path": move(given.path)}) for name, given in job.request.inputs.items()}
    return job.model_copy(
        update={
            "output": move(job.output),
            "tracker_folder": move(job.tracker_folder),
            "request": job.request.model_copy(update={"inputs": inputs}),
        }
    )


def _remove_damaged(output: Path) -> bool:
    """Whether there is something to make; a finished artifact that is no longer whole is removed first."""
    if not verify(output):
        return False
    if (output / MANIFEST).exists():
        shutil.rmtree(output)
    return True
