"""Find and open a finished run, and rebuild its published results and report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rlhf.errors import UserError
from rlhf.evaluation.verdict import complete
from rlhf.report.model_card import refresh_card
from rlhf.report.page import render_report
from rlhf.results.schema import (
    CONFIG,
    LABELS,
    REPORT,
    REPORT_DATA,
    RESULTS,
    ImportedLabels,
    ReportData,
    Results,
    StageRow,
)
from rlhf.storage.artifacts import Store, verify
from rlhf.storage.files import write_atomically
from rlhf.storage.s3_store import open_store

LABELING = "export_labeling_manifest"
READ_BY_IMPORT = "aggregate_results"
"""The stage whose artifact a label import reads, besides that of the pairs."""


@dataclass(frozen=True)
class FinishedRun:
    """One run that `rlhf run` published."""

    folder: Path
    """Local folder of its published results."""
    store: Store
    results: Results

    @property
    def labeling_task(self) -> str:
        """Fingerprint of the blinded pairs."""
        return self.results.lineage.fingerprints[LABELING]

    @property
    def pairs(self) -> Path:
        """Folder of the labeling manifest and its key."""
        return self.store.folder(LABELING, self.labeling_task)

    @property
    def labels(self) -> Path:
        """Folder of the labels that the labeling page writes for these pairs."""
        return self.folder / "labels" / self.labeling_task


def find_run(workspace: str, name: str | None) -> FinishedRun:
    """The run `name` in `workspace`, a folder or s3://bucket/prefix; without a name, the only run.

    Raises UserError if there is no such run, or several and no name.
    """
    store = open_store(workspace)
    names = store.runs(RESULTS)
    if name is None and len(names) != 1:
        problem = (
            f"holds several runs ({', '.join(names)}); choose one with --run" if names else "holds no finished run"
        )
        raise UserError(f"{workspace}: {problem}; --workspace names another folder, `rlhf run` makes a run")
    run_name = name or names[0]
    if run_name not in names:
        raise UserError(f"{workspace}: no finished run {run_name}; there are {', '.join(names) or 'none'}")
    folder = store.run_folder(run_name)
    store.pull(folder, [RESULTS, CONFIG, LABELS])
    try:
        results = Results.model_validate_json((folder / RESULTS).read_bytes())
    except ValidationError as error:
        raise UserError(
            f"{folder / RESULTS}: written by another version; `rlhf run PROFILE --name {run_name}` rebuilds it"
        ) from error
    return FinishedRun(folder, store, results)


@contextmanager
def open_run(workspace: str, name: str | None) -> Iterator[FinishedRun]:
    """Open a run as `find_run` does; inside the `with` block, the artifacts that human evaluation reads are local.

    Also raises UserError if the blinded pairs are not intact.
    """
    run = find_run(workspace, name)
    stages = [(stage.name.partition("[")[0], stage.fingerprint) for stage in run.results.stages]
    folders = [run.store.folder(stage, fingerprint) for stage, fingerprint in stages if stage == READ_BY_IMPORT]
    with run.store.local_copies([run.pairs, *folders]):
        if problems := verify(run.pairs):
            raise UserError(f"{'; '.join(problems)}; `rlhf run PROFILE --name {run.folder.name}` rebuilds it")
        yield run


def results_artifact(run: FinishedRun) -> Path:
    """Folder of the run's aggregate_results artifact.  Raises UserError if it is not intact."""
    fingerprint = next(stage.fingerprint for stage in run.results.stages if stage.name == "aggregate_results")
    artifact = run.store.folder("aggregate_results", fingerprint)
    if problems := verify(artifact):
        raise UserError(f"{'; '.join(problems)}; `rlhf run PROFILE --name {run.folder.name}` rebuilds it")
    return artifact


def rebuild_report(run: FinishedRun) -> None:
    """Write results.json, report.html and model card again, with imported labels; also to S3 if they are there."""
    artifact = results_artifact(run)
    write_with_stage_times(artifact, run.results.stages, run.folder / RESULTS, run.folder / REPORT)
    refresh_card(run.folder)
    run.store.push(run.folder, [name for name in (LABELS, REPORT, RESULTS) if (run.folder / name).exists()])


def write_results(results: Results, report_data: ReportData, results_path: Path, report_path: Path) -> None:
    """Write results.json and report.html."""
    write_atomically(results_path, results.model_dump_json(indent=2) + "\n")
    write_atomically(report_path, render_report(results, report_data))


def write_with_stage_times(artifact: Path, stages: list[StageRow], results_path: Path, report_path: Path) -> None:
    """Write the results of an aggregate_results artifact with the times of the stages of this run.

    Labels that were imported for the same pairs, next to the results, are included.
    """
    results = Results.model_validate_json((artifact / RESULTS).read_bytes())
    report_data = read_report_data(artifact)
    labeling_task = results.lineage.fingerprints["export_labeling_manifest"]
    labels = read_labels(results_path.parent, labeling_task)
    people = labels.evaluation if labels is not None else results.human_evaluation
    completed = complete(results.model_copy(update={"stages": stages}), people)
    write_results(completed, report_data, results_path, report_path)


def read_report_data(artifact: Path) -> ReportData:
    """Plots and texts of a finished aggregate_results `artifact`."""
    return ReportData.model_validate_json((artifact / REPORT_DATA).read_bytes())


def read_labels(folder: Path, labeling_task: str) -> ImportedLabels | None:
    """Labels imported for the pairs with this fingerprint, or None if there are none."""
    try:
        labels = ImportedLabels.model_validate_json((folder / LABELS).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return labels if labels.labeling_task == labeling_task else None
