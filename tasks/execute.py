"""Run a stage on this machine.  With a workspace in S3, download its inputs first and publish its artifact after."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from rlhf.errors import UserError
from rlhf.storage.artifacts import MANIFEST, Store, verify
from rlhf.storage.files import discard_folder
from rlhf.storage.fingerprints import source_digest
from rlhf.storage.s3_store import S3Store, open_s3_store
from tasks.launch import StageCallbacks, StageJob, launch_stage, require_going_on


def store_for(job: StageJob) -> Store:
    """The store of a job's artifact.  Its output folder is this machine's copy of the artifact."""
    return Store(job.output.parent.parent) if job.remote is None else open_s3_store(job.remote.uri)


def require_same_code(job: StageJob) -> None:
    """Raise UserError if this machine has other code for a stage than the machine of the pipeline.

    The artifact is filed under a fingerprint of that code.
    """
    try:
        same = source_digest(job.module) == job.code
    except LookupError:
        same = False
    if not same:
        raise UserError(
            f"{job.label}: this worker's {job.module} is not the one of the pipeline, or its Python is of another "
            "version; install the same version of this package on both machines and start the worker again"
        )


def execute_locally(job: StageJob, callbacks: StageCallbacks) -> None:
    """Create the artifact of a job on this machine, unless it is finished and intact.

    If another run makes the same artifact, waits for it and uses what it made.  A damaged artifact is removed first.
    With S3, inputs are downloaded and protected from eviction, and the stage resumes from the checkpoints of an
    interrupted run on another machine; then the artifact is published, or after an error the checkpoints.  Raises
    what `launch_stage` raises.
    """
    store, request = store_for(job), job.request
    with store.exclusive(request.stage, request.fingerprint, _Wait(job.label, callbacks)):
        if isinstance(store, S3Store):
            _execute_for_s3(store, job, callbacks)
        elif _remove_damaged(job.output):
            launch_stage(job, callbacks)


def _execute_for_s3(store: S3Store, job: StageJob, callbacks: StageCallbacks) -> None:
    assert job.remote is not None
    stage, fingerprint = job.request.stage, job.request.fingerprint
    if not store.verify(stage, fingerprint):
        return
    local_job = relocate(job, job.remote.cache, store.workspace)
    if _remove_damaged(local_job.output):
        store.restore_unfinished(stage, fingerprint)
        with store.local_copies(stage_input.path for stage_input in local_job.request.inputs.values()):
            try:
                launch_stage(local_job, callbacks)
            except BaseException:
                with suppress(UserError):  # the stage's own error matters more
                    store.save_unfinished(stage, fingerprint)
                raise
    if not store.publish(stage, fingerprint):
        callbacks.note(f"{job.label}: another machine has published this artifact meanwhile; that one is used")


class _Wait:
    """Says once that a stage waits for another run, and ends the wait if this run is being stopped."""

    def __init__(self, label: str, callbacks: StageCallbacks) -> None:
        self.label = label
        self.callbacks = callbacks
        self.is_announced = False

    def __call__(self) -> None:
        require_going_on()
        if not self.is_announced:
            self.callbacks.note(f"{self.label} waits for another run that makes the same artifact")
            self.is_announced = True


def relocate(job: StageJob, old: Path, new: Path) -> StageJob:
    """The job with its paths below `new` instead of `old`."""

    def move(path: Path) -> Path:
        return new / path.relative_to(old)

    inputs = {
        name: stage_input.model_copy(update={"path": move(stage_input.path)})
        for name, stage_input in job.request.inputs.items()
    }
    return job.model_copy(
        update={
            "output": move(job.output),
            "tracker_folder": move(job.tracker_folder),
            "request": job.request.model_copy(update={"inputs": inputs}),
        }
    )


def _remove_damaged(output: Path) -> bool:
    """Whether the stage must run.  A finished artifact that is not intact is removed."""
    if not verify(output):
        return False
    if (output / MANIFEST).exists():
        discard_folder(output)
    return True
