"""Run a stage on a GPU pool: start a run of the deployment `rlhf-stage/POOL` and follow it to its end.

A retried pipeline reattaches to the GPU run that is still going.  Attempts are numbered; a new number is used only
after an attempt has failed.
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
from tasks.launch import NO_CALLBACKS, StageCallbacks, StageFailedError, StageJob, ctrl_c_pressed
from tasks.messages import Progress

STAGE_FLOW = "rlhf-stage"
"""Name of the flow that a GPU pool runs.  Its deployment has the name of the pool."""
POLL_SECONDS = 1.0
PROGRESS_POLLS = 5
"""Progress is read once per this many polls of the state."""
UNREACHABLE_SECONDS = 600.0
"""How long the server may be unreachable, for example during a restart, before a stage fails."""

ResultT = TypeVar("ResultT")


def run_on_pool(job: StageJob, pool: str, callbacks: StageCallbacks) -> None:
    """Run `job` on a worker of `pool` and wait for its end.

    Raises UserError if the stage reports an error that the user can fix, StageFailedError if it fails otherwise or is
    cancelled.
    """
    with get_client(sync_client=True) as client:
        run = _wait_for(client, _current_run(client, job, pool), callbacks)
    assert run.state is not None
    if run.state.is_completed():
        return
    message = run.state.message or run.state.name or run.state.type.value
    _, is_user_error, user_message = message.partition(f"{UserError.__name__}: ")
    if is_user_error:
        raise UserError(user_message)
    raise StageFailedError(f"{job.label} on pool {pool}, run {run.name}: {message}")


def _current_run(client: SyncPrefectClient, job: StageJob, pool: str) -> FlowRun:
    """The run of this stage that is still going or has completed, or else a new one."""
    for attempt in count():
        run = get_or_create_run(job, pool, attempt)
        if run.state is not None and run.state.is_cancelling():
            run = _wait_for(client, run, NO_CALLBACKS)
        if run.state is None or not run.state.is_final() or run.state.is_completed():
            return run
    raise AssertionError("unreachable")


def get_or_create_run(job: StageJob, pool: str, attempt: int) -> FlowRun:
    """The run on `pool` for this attempt of a stage within the current run of the pipeline.

    Raises UserError if the pool has no deployment.
    """
    try:
        run = retry_while_unreachable(
            run_deployment,
            f"{STAGE_FLOW}/{pool}",
            parameters={"job": job.model_dump(mode="json")},
            flow_run_name=job.label,
            idempotency_key=f"{pipeline_run.get_id()}-{job.request.stage}-{job.request.fingerprint}-{attempt}",
            timeout=0,
        )
    except ObjectNotFound as error:
        raise UserError(
            f"compute.gpu_pool ({pool}): this Prefect server has no deployment {STAGE_FLOW}/{pool}; run `rlhf deploy`"
        ) from error
    assert isinstance(run, FlowRun)
    return run


def _wait_for(client: SyncPrefectClient, run: FlowRun, callbacks: StageCallbacks) -> FlowRun:
    """Wait until the run is final and return it; report its progress meanwhile.

    If the pipeline is cancelled or gets Ctrl-C, the run is cancelled too.  Prefect itself would cancel it only after
    the process of the pipeline, which waits in this function, has ended: a minute later.
    """
    cancelled = False
    for poll in count():
        if poll % PROGRESS_POLLS == 0:
            retry_while_unreachable(_report_progress, client, run.id, callbacks)
        run = retry_while_unreachable(client.read_flow_run, run.id)
        if run.state is not None and run.state.is_final():
            return run
        if not cancelled and (ctrl_c_pressed.is_set() or retry_while_unreachable(_pipeline_is_cancelled, client)):
            retry_while_unreachable(client.set_flow_run_state, run.id, Cancelling(message="The pipeline was stopped."))
            cancelled = True
        time.sleep(POLL_SECONDS)
    raise AssertionError("unreachable")


def _pipeline_is_cancelled(client: SyncPrefectClient) -> bool:
    state = client.read_flow_run(UUID(pipeline_run.get_id())).state
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def _report_progress(client: SyncPrefectClient, run: UUID, callbacks: StageCallbacks) -> None:
    bars = client.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[run]), type=ArtifactFilterType(any_=["progress"])
        )
    )
    for bar in sorted(bars, key=lambda bar: str(bar.created)):
        phase = (bar.description or "").rpartition(": ")[2]
        callbacks.progress(Progress(phase, round(float(str(bar.data))), 100, {}))


def retry_while_unreachable(request: Callable[..., ResultT], *arguments: object, **named: object) -> ResultT:
    """Call `request`, retrying for UNREACHABLE_SECONDS while the Prefect server is unreachable."""
    deadline = time.monotonic() + UNREACHABLE_SECONDS
    while True:
        try:
            return request(*arguments, **named)
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
