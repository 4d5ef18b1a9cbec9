"""A pipeline stage as a Prefect task, cached by its fingerprint as long as its artifact is intact.

A stage's fingerprint is known before anything runs, since it depends only on settings, code and the fingerprints of its
inputs.  Prefect stores a small JSON record of each finished stage, never a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefect import task
from prefect.context import TaskRunContext
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger

from rlhf.config import RunConfig, Settings
from rlhf.runtime.stage import StageInput, StageRequest
from rlhf.stage_config import part_of
from rlhf.storage.fingerprints import fingerprint_stage, source_digest
from tasks.callbacks import attached_displays, ui_callbacks
from tasks.execute import execute_locally, store_for
from tasks.launch import StageJob
from tasks.pool import run_on_pool
from tasks.records import StageRecord
from tasks.run import Run


@dataclass(frozen=True)
class StageFuture:
    """A submitted stage: its fingerprint, and a future for its record."""

    name: str
    label: str
    fingerprint: str
    future: PrefectFuture[StageRecord]


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline: its module and the settings that it reads."""

    name: str
    module: str
    config: type[Settings]
    needs_gpu: bool = True
    """Whether the stage runs under `accelerate launch`, and on the GPU pool if there is one."""
    needs_network: Callable[[RunConfig], bool] = lambda _config: False
    """Whether the stage downloads something from the Hugging Face hub."""
    trlx_module: str | None = None
    """The module that runs instead if `trainer` is trlx."""

    def submit(self, run: Run, *, variant: str = "", **inputs: StageFuture | Path | None) -> StageFuture:
        """Submit the stage.  It runs once its inputs are finished, unless its artifact is finished and intact.

        `variant` distinguishes several runs of the stage within the pipeline.  Inputs are other stages or a user's
        files; an input of None is ignored.
        """
        stage_inputs = {name: _stage_input(run, value) for name, value in inputs.items() if value is not None}
        config = part_of(run.config, self.config)
        environment: Literal["own", "trlx"] = "own"
        module = self.module
        if self.trlx_module and run.config.trainer == "trlx":
            environment, module = "trlx", self.trlx_module
        fingerprint = fingerprint_stage(
            self.name, config, {name: value.fingerprint for name, value in stage_inputs.items()}, module
        )
        label = f"{self.name}[{variant}]" if variant else self.name
        folder = run.store.folder(self.name, fingerprint)
        cached_task = run_stage_task.with_options(
            name=self.name,
            task_run_name=label,
            refresh_cache=bool(run.store.verify(self.name, fingerprint)),
            result_storage=run.result_storage,
        )
        future = cached_task.submit(
            job=StageJob(
                label=label,
                module=module,
                code=source_digest(module),
                environment=environment,
                needs_gpu=self.needs_gpu,
                offline=not self.needs_network(run.config),
                output=folder.absolute(),
                compute=run.config.compute,
                tracker_folder=run.folder.absolute() / "tracker" / label,
                request=StageRequest(
                    stage=self.name,
                    fingerprint=fingerprint,
                    config=config.model_dump(mode="json"),
                    inputs=stage_inputs,
                ),
                remote=run.remote_workspace,
            ),
            workspace=run.workspace.absolute(),
            return_state=False,
            wait_for=[value.future for value in inputs.values() if isinstance(value, StageFuture)],
        )
        future.add_done_callback(lambda done: _show_final_state(label, done))
        return StageFuture(self.name, label, fingerprint, future)


def _stage_input(run: Run, value: StageFuture | Path) -> StageInput:
    if isinstance(value, Path):
        return run.user_input(value)
    return StageInput(fingerprint=value.fingerprint, path=run.store.folder(value.name, value.fingerprint).absolute())


def _cache_key(_context: TaskRunContext, arguments: dict[str, Any]) -> str:
    """Name of the record of the stage that is about to run."""
    request: StageRequest = arguments["job"].request
    return f"{request.stage}-{request.fingerprint}"


@task(persist_result=True, result_serializer="json", cache_key_fn=_cache_key)
def run_stage_task(job: StageJob, workspace: Path) -> StageRecord:
    """Create the artifact of one stage, unless it is finished and intact."""
    store, stage, fingerprint = store_for(job), job.request.stage, job.request.fingerprint
    problems = store.verify(stage, fingerprint)
    if problems and store.manifest(stage, fingerprint) is not None:
        get_run_logger().warning("The artifact of %s is damaged and is rebuilt: %s", job.label, "; ".join(problems))
    if problems and job.needs_gpu and job.compute.gpu_pool is not None:
        run_on_pool(job, job.compute.gpu_pool, ui_callbacks(job.label))
    elif problems:
        execute_locally(job, ui_callbacks(job.label))
    manifest = store.manifest(stage, fingerprint)
    assert manifest is not None, f"{job.module} succeeded without writing a manifest in {job.output}"
    return StageRecord(
        stage=stage,
        fingerprint=fingerprint,
        uri=job.output.relative_to(workspace).as_posix(),
        seconds=manifest.seconds,
        metrics=manifest.metrics,
    )


def _show_final_state(label: str, future: PrefectFuture[StageRecord]) -> None:
    future.wait()  # the callback runs a moment before the future knows its final state
    for display in attached_displays:
        display.finished(label, future.state.name or future.state.type.value)
