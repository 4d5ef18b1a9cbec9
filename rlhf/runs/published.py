"""Find and open a finished run, and rebuild its published results and report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

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
from rlhf.storage.files import PUBLISH_LOCK, locked_when_free, write_atomically
from rlhf.storage.s3 import MAX_SMALL_BYTES
from rlhf.storage.s3_store import open_store
from rlhf.storage.untrusted import read_regular_file

LABELING = "export_labeling_manifest"
READ_BY_IMPORT = "aggregate_results"
"""The stage whose artifact a label import reads, besides that of the pairs."""


ModelT = TypeVar("ModelT", bound=BaseModel)


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
    results = _read(Results, folder / RESULTS, run_name)
    stages = {stage.name for stage in results.stages}
    if READ_BY_IMPORT not in stages or LABELING not in results.lineage.fingerprints:
        raise UserError(f"{folder / RESULTS}: names no {READ_BY_IMPORT} or {LABELING}; {_remedy(run_name)}")
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


@contextmanager
def publishing(folder: Path) -> Iterator[None]:
    """Keep others from publishing in a run's folder inside the `with` block, so that its files belong together."""
    with locked_when_free(folder.with_name(f".{folder.name}{PUBLISH_LOCK}"), lambda: None):
        yield


def results_artifact(run: FinishedRun) -> Path:
    """Folder of the run's aggregate_results artifact.  Raises UserError if it is not intact."""
    fingerprint = next(stage.fingerprint for stage in run.results.stages if stage.name == READ_BY_IMPORT)
    artifact = run.store.folder(READ_BY_IMPORT, fingerprint)
    if problems := verify(artifact):
        raise UserError(f"{'; '.join(problems)}; `rlhf run PROFILE --name {run.folder.name}` rebuilds it")
    return artifact


def rebuild_report(run: FinishedRun) -> None:
    """Write results.json, report.html and model card again, with imported labels; also to S3 if they are there."""
    artifact = results_artifact(run)
    with publishing(run.folder):
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
    results = _read(Results, artifact / RESULTS)
    report_data = read_report_data(artifact)
    labeling_task = results.lineage.fingerprints[LABELING]
    labels = read_labels(results_path.parent, labeling_task)
    people = labels.evaluation if labels is not None else results.human_evaluation
    completed = complete(results.model_copy(update={"stages": stages}), people)
    write_results(completed, report_data, results_path, report_path)


def read_report_data(artifact: Path) -> ReportData:
    """Plots and texts of a finished aggregate_results `artifact`.  Raises UserError if another version wrote them."""
    return _read(ReportData, artifact / REPORT_DATA)


def _read(kind: type[ModelT], path: Path, run: str = "RUN") -> ModelT:
    try:
        return kind.model_validate_json(read_regular_file(path, MAX_SMALL_BYTES))
    except ValidationError as error:
        raise UserError(f"{path}: damaged or written by another version; {_remedy(run)}") from error


def _remedy(run: str) -> str:
    return f"`rlhf run PROFILE --name {run}` rebuilds it"


def read_labels(folder: Path, labeling_task: str) -> ImportedLabels | None:
    """Labels imported for the pairs with this fingerprint, or None if there are none."""
    try:
        labels = _read(ImportedLabels, folder / LABELS)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError | ValidationError):
            return None
        raise
    return labels if labels.labeling_task == labeling_task else None
