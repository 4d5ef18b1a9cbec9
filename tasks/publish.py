"""Put the results of a finished run where a person looks for them."""

from __future__ import annotations

from pathlib import Path

from prefect.artifacts import create_table_artifact
from prefect.futures import wait
from pydantic import BaseModel, ConfigDict

from rlhf.artifacts import read_manifest, write_atomically
from rlhf.export_model import FOLDER, place_model, refresh_card
from rlhf.report.lineage import device_of
from rlhf.report.results import StageRow, with_stages
from tasks.caching import Run, Submitted


class RunSummary(BaseModel):
    """What a finished run made."""

    model_config = ConfigDict(frozen=True)
    report: Path
    results: Path
    stages: list[StageRow]


def publish(run: Run, submitted: list[Submitted], results: Submitted, exported: Submitted) -> RunSummary:
    """Wait for the steps, then put report, results with what each step took, and the model into the run's folder.

    Raises the error of the first step that failed.
    """
    steps = [*submitted, results, exported]
    wait([step.future for step in steps])
    for step in steps:
        if step.future.state.is_failed() or step.future.state.is_crashed():
            step.future.result()  # raises the step's own error
    rows = [_stage_row(run, step) for step in steps]
    run.folder.mkdir(parents=True, exist_ok=True)
    artifact = run.store.folder(results.name, results.fingerprint)
    report, figures = run.folder / "report.html", run.folder / "results.json"
    with_stages(artifact, rows, figures, report)
    write_atomically(run.folder / "config.json", run.config.model_dump_json(indent=2))
    place_model(run.store.folder(exported.name, exported.fingerprint) / FOLDER, run.folder / FOLDER)
    refresh_card(run.folder)
    create_table_artifact([row.model_dump() for row in rows], key="stages", description="Steps of this run")
    return RunSummary(report=report, results=figures, stages=rows)


def _stage_row(run: Run, step: Submitted) -> StageRow:
    manifest = read_manifest(run.store.folder(step.name, step.fingerprint))
    assert manifest is not None, f"{step.label} ended well without a manifest"
    price = run.config.compute.dollars_per_hour
    return StageRow(
        name=step.label,
        seconds=manifest.seconds,
        cached=step.future.state.name == "Cached",
        fingerprint=step.fingerprint,
        device=device_of(manifest),
        dollars=None if price is None else round(manifest.seconds / 3600 * price, 6),
    )
