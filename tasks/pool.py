"""Run a stage on the GPU pool: as a run of the deployment `rlhf-stage/POOL`, followed to its end.

A retry of the pipeline comes back to the run that is still going instead of starting a second one: the runs of a stage
within one run of the pipeline are numbered, and a number is used up only by a run that ended without finishing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterType
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run as pipeline_run
from prefect.states import Cancelling

from rlhf.errors import UserError
from tasks.launch import Progress, StageCallbacks, StageFailedError, StageJob, interrupted

STAGE_FLOW = "rlhf-stage"
"""Name of the flow that the pool runs; its deployment bears the pool's name."""
POLL_SECONDS = 1.0
PROGRESS_POLLS = 5
"""Polls of the state between two of the progress."""
UNREACHABLE_SECONDS = 600.0
"""How long a server may be away, for a restart say, before a stage that is followed fails."""

NOBODY = StageCallbacks(lambda _progress: None, lambda _note: None)

ResultT = TypeVar("ResultT")


def run_on_pool(job: StageJob, pool: str, listener: StageCallbacks) -> None:
    """Run `job` on a worker of `pool` and wait for its end.

    Raises UserError where the stage says that the user can mend it, StageFailedError where it fails otherwise or is
    cancelled.
    """
    with get_client(sync_client=True) as client:
        run = _followed(client, _run_of(client, job, pool), listener)
    assert run.state is not None
    if run.state.is_completed():
        return
    message = run.state.message or run.state.name or run.state.type.value
    _, mendable, what = message.partition(f"{UserError.__name__}: ")
    if mendable:
        raise UserError(what)
    raise StageFailedError(f"{job.label} on pool {pool}, run {run.name}: {message}")


def _run_of(client: SyncPrefectClient, job: StageJob, pool: str) -> FlowRun:
    """The run of this stage that is going or finished, or else a new one."""
    for number in count():
        run = _numbered(job, pool, number)
        if run.state is not None and run.state.is_cancelling():
            run = _followed(client, run, NOBODY)
        if run.state is None or not run.state.is_final() or run.state.is_completed():
            return run
    raise AssertionError("numbers never end")


def _numbered(job: StageJob, pool: str, number: int) -> FlowRun:
    try:
        run = _patiently(
            run_deployment,
            f"{STAGE_FLOW}/{pool}",
            parameters={"job": job.model_dump(mode="json")},
            flow_run_name=job.label,
            idempotency_key=f"{pipeline_run.get_id()}-{job.request.stage}-{job.request.fingerprint}-{number}",
            timeout=0,
        )
    except ObjectNotFound:
        raise UserError(
            f"compute.gpu_pool ({pool}): this Prefect server has no deployment {STAGE_FLOW}/{pool}; run `rlhf deploy`"
        ) from None
    assert isinstance(run, FlowRun)
    return run


def _followed(client: SyncPrefectClient, run: FlowRun, listener: StageCallbacks) -> FlowRun:
    """The run once it is final; its progress goes to the listener meanwhile.

    Where the pipeline is cancelled, or interrupted by Ctrl-C, so is the run.  Prefect itself cancels it only when the
    process of the pipeline, which waits here, is gone: a minute later.
    """
    asked_to_end = False
    for poll in count():
        if poll % PROGRESS_POLLS == 0:
            _patiently(_tell_progress, client, run.id, listener)
        run = _patiently(client.read_flow_run, run.id)
        if run.state is not None and run.state.is_final():
            return run
        if not asked_to_end and (interrupted.is_set() or _patiently(_pipeline_is_cancelled, client)):
            _patiently(client.set_flow_run_state, run.id, Cancelling(message="The pipeline was stopped."))
            asked_to_end = True
        time.sleep(POLL_SECONDS)
    raise AssertionError("polls never end")


def _pipeline_is_cancelled(client: SyncPrefectClient) -> bool:
    state = client.read_flow_run(UUID(pipeline_run.get_id())).state
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def _tell_progress(client: SyncPrefectClient, run: UUID, listener: StageCallbacks) -> None:
    bars = client.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[run]), type=ArtifactFilterType(any_=["progress"])
        )
    )
    for bar in sorted(bars, key=lambda bar: str(bar.created)):
        phase = (bar.description or "").rpartition(": ")[2]
        listener.progress(Progress(phase, round(float(str(bar.data))), 100, {}))


def _patiently(ask: Callable[..., ResultT], *arguments: object, **named: object) -> ResultT:
    """What the server answers, which may take a while where it is being started again."""
    until = time.monotonic() + UNREACHABLE_SECONDS
    while True:
        try:
            return ask(*arguments, **named)
        except httpx.TransportError:
            if time.monotonic() > until:
                raise
            time.sleep(POLL_SECONDS)
