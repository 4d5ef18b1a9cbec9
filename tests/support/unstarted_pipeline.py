"""The jobs of a pipeline that is submitted but never started."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

import pytest

import flows.pipeline
import tasks.stage
from rlhf.config import RunConfig
from tasks.launch import StageJob
from tasks.run import Run
from tasks.stage import StageFuture


class Submitted(NamedTuple):
    """What a pipeline submits."""

    jobs: dict[str, StageJob]
    """Jobs by label, in the order in which they are submitted."""
    published: list[str]
    """Labels of the stages in results.json, in its order."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of each stage by its label."""
        return {label: job.request.fingerprint for label, job in self.jobs.items()}


def submit_pipeline(monkeypatch: pytest.MonkeyPatch, config: RunConfig, workspace: Path) -> Submitted:
    """Run the flow with a Prefect task that starts nothing."""
    task, published = _UnstartedTask(), list[str]()

    def publish(_run: Run, others: list[StageFuture], results: StageFuture, model: StageFuture) -> None:
        published.extend(stage.label for stage in (*others, results, model))

    with monkeypatch.context() as patched:
        patched.setattr(tasks.stage, "run_stage_task", task)
        patched.setattr(flows.pipeline, "publish", publish)
        flows.pipeline.pipeline.fn(config, str(workspace))
    jobs = {job.label: job for job in task.jobs}
    assert len(jobs) == len(task.jobs), "two stages have the same label"
    return Submitted(jobs, published)


class _UnstartedTask:
    """Stands in for the Prefect task of a stage: notes the jobs, and starts none."""

    def __init__(self) -> None:
        self.jobs: list[StageJob] = []

    def with_options(self, **_options: object) -> Self:
        return self

    def submit(self, *, job: StageJob, **_options: object) -> Self:
        self.jobs.append(job)
        return self

    def add_done_callback(self, _callback: object) -> None:
        """It is never done."""
