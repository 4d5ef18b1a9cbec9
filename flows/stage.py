"""The flow that a GPU pool runs: one stage, on the machine of the worker."""

from __future__ import annotations

from prefect import flow

from tasks.callbacks import ui_callbacks
from tasks.execute import execute_locally, require_same_code
from tasks.launch import StageJob, stop_stages_on_error
from tasks.pool import STAGE_FLOW


@flow(name=STAGE_FLOW, flow_run_name="{job.label}")
def stage(job: StageJob) -> None:
    """Run one stage of the pipeline on this worker, unless its artifact is finished and intact.

    Args:
        job: The stage, its inputs and the folder of its artifact.
    """
    require_same_code(job)
    with stop_stages_on_error():
        execute_locally(job, ui_callbacks(job.label))
