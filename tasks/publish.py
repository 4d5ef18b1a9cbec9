"""Publish the results of a finished run in its folder and on its page in the Prefect UI."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact
from prefect.futures import wait
from pydantic import BaseModel, ConfigDict

from rlhf.errors import UserError
from rlhf.planning.plan_vs_actual import plan_vs_actual
from rlhf.planning.throughput import BENCHMARK, read_benchmark
from rlhf.report.lineage import device_of
from rlhf.report.model_card import refresh_card
from rlhf.report.plot_images import image_uri
from rlhf.report.summary import metrics_table, stage_table, summary
from rlhf.results.schema import CONFIG, LABELS, MODEL, REPORT, RESULTS, ReportData, Results, StageRow
from rlhf.runs.published import publishing, read_report_data, write_with_stage_times
from rlhf.storage.files import copy_folder, write_atomically
from tasks.run import Run
from tasks.stage import StageFuture


class RunSummary(BaseModel):
    """The published files and the stages of a finished run."""

    model_config = ConfigDict(frozen=True)
    report: Path
    results: Path
    stages: list[StageRow]
    remote_uri: str | None = None
    """S3 URI of report and results, if the workspace is in S3."""


def publish(run: Run, other_stages: list[StageFuture], results: StageFuture, exported_model: StageFuture) -> RunSummary:
    """Wait for all stages, then write report, results with the time of each stage, and model to the run's folder.

    Raises the error of the first stage that failed.
    """
    stages = [*other_stages, results, exported_model]
    wait([stage.future for stage in stages])
    for stage in stages:
        if stage.future.state.is_failed() or stage.future.state.is_crashed():
            stage.future.result()  # raises the stage's own error
    rows = add_planned_seconds(run, [_stage_row(run, stage) for stage in stages])
    run.folder.mkdir(parents=True, exist_ok=True)
    artifact, model = (run.store.folder(stage.name, stage.fingerprint) for stage in (results, exported_model))
    report, results_path = run.folder / REPORT, run.folder / RESULTS
    with run.store.local_copies([artifact, model]), publishing(run.folder):
        run.store.pull(run.folder, [LABELS])
        write_with_stage_times(artifact, rows, results_path, report)
        write_atomically(run.folder / CONFIG, run.config.model_dump_json(indent=2))
        copy_folder(model / MODEL, run.folder / MODEL)
        refresh_card(run.folder)
        show(Results.model_validate_json(results_path.read_bytes()), read_report_data(artifact))
    remote_uri = run.store.push(run.folder, [REPORT, RESULTS, CONFIG])
    return RunSummary(report=report, results=results_path, stages=rows, remote_uri=remote_uri)


def add_planned_seconds(run: Run, rows: list[StageRow]) -> list[StageRow]:
    """The rows with the planned time of each stage, if `rlhf plan` can estimate it."""
    planned: dict[str, float] = {}
    with suppress(UserError):
        benchmark = read_benchmark(run.workspace / BENCHMARK)
        planned = {row.name: row.planned_seconds for row in plan_vs_actual(run.config, rows, benchmark)}
    return [row.model_copy(update={"planned_seconds": planned.get(row.name)}) for row in rows]


def show(results: Results, report_data: ReportData) -> None:
    """Show the report's metrics, stages and plots on the run's page in the Prefect UI."""
    create_markdown_artifact(summary(results), key="results", description="Did the model get better?")
    create_table_artifact(metrics_table(results), key="metrics", description="Metrics of both models")
    create_table_artifact(stage_table(results.stages), key="stages", description="Stages of this run")
    for plot in report_data.plots:
        key = re.sub(r"[^a-z0-9]+", "-", f"plot {plot.title}".lower()).strip("-")
        create_image_artifact(image_url=image_uri(plot), key=key, description=f"{plot.title}: {plot.text}")


def _stage_row(run: Run, stage: StageFuture) -> StageRow:
    manifest = run.store.manifest(stage.name, stage.fingerprint)
    assert manifest is not None, f"{stage.label} succeeded without writing a manifest"
    price = run.config.compute.dollars_per_hour
    return StageRow(
        name=stage.label,
        seconds=manifest.seconds,
        cached=stage.future.state.name == "Cached",
        fingerprint=stage.fingerprint,
        device=device_of(manifest),
        dollars=None if price is None else round(manifest.seconds / 3600 * price, 6),
    )
