"""One cache policy for every stage: by fingerprint, and only while the artifact is there and whole.

A stage's fingerprint is known before anything runs, since it depends on settings, sources and the inputs'
fingerprints alone.  What Prefect stores is a small JSON record of the finished artifact, never a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from prefect import task
from prefect.cache_policies import CachePolicy
from prefect.filesystems import WritableFileSystem
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from pydantic import BaseModel, ConfigDict

from rlhf.config import RunConfig, Settings
from rlhf.runtime.stage import StageInput, StageRequest
from rlhf.stage_config import part_of
from rlhf.storage.artifacts import Store
from rlhf.storage.fingerprints import fingerprint_path, fingerprint_stage
from rlhf.storage.s3 import S3
from rlhf.storage.s3_store import S3Store, open_s3_store
from tasks.callbacks import displays, ui_callbacks
from tasks.execute import execute_locally, shared_records, store_of
from tasks.launch import Remote, StageJob
from tasks.pool import run_on_pool


class StageRecord(BaseModel):
    """What is known of a finished stage."""

    model_config = ConfigDict(frozen=True)
    stage: str
    fingerprint: str
    uri: str
    """Where the artifact lies, from the workspace."""
    seconds: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Run:
    """One run of the pipeline: its settings and where its artifacts lie."""

    config: RunConfig
    workspace: Path
    """On this machine."""
    shared: S3Store | None = None
    """Where the artifacts are kept if not there."""

    @classmethod
    def at(cls, config: RunConfig, workspace: str) -> Run:
        """A run whose workspace is a folder or s3://bucket/prefix."""
        if not workspace.startswith(S3):
            return cls(config, Path(workspace))
        shared = open_s3_store(workspace)
        return cls(config, shared.workspace, shared)

    @property
    def store(self) -> Store:
        """Artifacts of this workspace, shared by all of its runs."""
        return self.shared or Store(self.workspace / "artifacts")

    @property
    def remote(self) -> Remote | None:
        """What a machine must know that shares them."""
        return Remote(uri=self.shared.bucket.uri, cache=self.workspace) if self.shared else None

    @cached_property
    def records(self) -> Path | WritableFileSystem:
        """Where Prefect keeps the records of finished stages: beside the artifacts."""
        return shared_records(self.shared.bucket.uri) if self.shared else self.workspace.absolute() / "records"

    def input(self, value: StageFuture | Path) -> StageInput:
        """An input of stages: what a stage makes, or the user's own file or folder."""
        if isinstance(value, Path):
            return self._given(value)
        return StageInput(
            fingerprint=value.fingerprint, path=self.store.folder(value.name, value.fingerprint).absolute()
        )

    @cached_property
    def _given(self) -> Callable[[Path], StageInput]:
        @cache  # several stages may read it; it is hashed, and put where they find it, once
        def given(path: Path) -> StageInput:
            fingerprint = fingerprint_path(path)
            found = self.shared.upload_input(path, fingerprint) if self.shared else path.absolute()
            return StageInput(fingerprint=fingerprint, path=found)

        return given

    @property
    def folder(self) -> Path:
        """Where the results of this run are published."""
        return self.workspace / self.config.run_name


@dataclass(frozen=True)
class StageFuture:
    """A stage on its way: its fingerprint is known, its record will be."""

    name: str
    label: str
    fingerprint: str
    future: PrefectFuture[StageRecord]


@dataclass(frozen=True)
class Stage:
    """A stage of the workflow: which stage runs, on which part of the settings."""

    name: str
    module: str
    config: type[Settings]
    accelerator: bool = True
    """Whether the stage runs under accelerate on the GPU machines."""
    downloads: Callable[[RunConfig], bool] = lambda _config: False
    """Whether the stage fetches something from the hub."""
    trlx_module: str | None = None
    """What runs instead with `trainer: trlx`."""

    def submit(self, run: Run, *, variant: str = "", **inputs: StageFuture | Path | None) -> StageFuture:
        """Send the stage to run once its inputs are there; nothing runs where its artifact is finished and whole.

        `variant` names which of several runs of the stage this is.  Inputs that are None are left out; a path is the
        user's own file or folder.
        """
        given = {name: run.input(value) for name, value in inputs.items() if value is not None}
        config = part_of(run.config, self.config)
        environment: Literal["own", "trlx"] = "own"
        module = self.module
        if self.trlx_module and run.config.trainer == "trlx":
            environment, module = "trlx", self.trlx_module
        fingerprint = fingerprint_stage(
            self.name, config, {name: value.fingerprint for name, value in given.items()}, module
        )
        label = f"{self.name}[{variant}]" if variant else self.name
        folder = run.store.folder(self.name, fingerprint)
        cached_task = run_stage_task.with_options(
            name=self.name,
            task_run_name=label,
            refresh_cache=bool(run.store.verify(self.name, fingerprint)),
            result_storage=run.records,
        )
        future = cached_task.submit(
            job=StageJob(
                label=label,
                module=module,
                environment=environment,
                accelerator=self.accelerator,
                offline=not self.downloads(run.config),
                output=folder.absolute(),
                compute=run.config.compute,
                tracker_folder=run.folder.absolute() / "tracker" / label,
                request=StageRequest(
                    stage=self.name,
                    fingerprint=fingerprint,
                    config=config.model_dump(mode="json"),
                    inputs=given,
                ),
                remote=run.remote,
            ),
            workspace=run.workspace.absolute(),
            return_state=False,
            wait_for=[value.future for value in inputs.values() if isinstance(value, StageFuture)],
        )
        future.add_done_callback(lambda done: _announce(label, done))
        return StageFuture(self.name, label, fingerprint, future)


class ByFingerprint(CachePolicy):
    """The record of a stage is stored under its fingerprint and nothing else."""

    def compute_key(
        self, task_ctx: object, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: object
    ) -> str:
        """Key of the record of the stage that is about to run."""
        request: StageRequest = inputs["job"].request
        return f"{request.stage}-{request.fingerprint}"


@task(persist_result=True, result_serializer="json", cache_policy=ByFingerprint())
def run_stage_task(job: StageJob, workspace: Path) -> StageRecord:
    """Make the artifact of one stage, or find it finished."""
    store, stage, fingerprint = store_of(job), job.request.stage, job.request.fingerprint
    problems = store.verify(stage, fingerprint)
    if problems and store.manifest(stage, fingerprint) is not None:
        get_run_logger().warning("%s is made again: %s", job.label, "; ".join(problems))
    if problems and job.accelerator and job.compute.gpu_pool is not None:
        run_on_pool(job, job.compute.gpu_pool, ui_callbacks(job.label))
    elif problems:
        execute_locally(job, ui_callbacks(job.label))
    manifest = store.manifest(stage, fingerprint)
    assert manifest is not None, f"{job.module} ended well without a manifest in {job.output}"
    return StageRecord(
        stage=stage,
        fingerprint=fingerprint,
        uri=job.output.relative_to(workspace).as_posix(),
        seconds=manifest.seconds,
        metrics=manifest.metrics,
    )


def _announce(label: str, done: PrefectFuture[StageRecord]) -> None:
    done.wait()  # the future is told of its end a moment before it knows its final state
    for display in displays:
        display.finished(label, done.state.name or done.state.type.value)
