"""A finished run as human evaluation needs it: where its pairs lie, and how labels complete its report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rlhf.errors import UserError
from rlhf.report.model_card import refresh_card
from rlhf.report.page import render_report
from rlhf.results.schema import (
    CONFIG,
    EVIDENCE,
    LABELS,
    REPORT,
    RESULTS,
    Evidence,
    ImportedLabels,
    Results,
    StageRow,
)
from rlhf.storage.artifacts import Store, damage
from rlhf.storage.files import write_atomically
from rlhf.storage.s3_store import store_in

EXPORT = "export_labeling_manifest"
READ = ("generate_responses", "aggregate_results")
"""Stages whose artifacts an import reads, beside that of the pairs."""


@dataclass(frozen=True)
class FinishedRun:
    """One run that `rlhf run` published."""

    folder: Path
    """On this machine, as all that is read and written here."""
    store: Store
    results: Results

    @property
    def comparison(self) -> str:
        """Fingerprint of the blinded pairs."""
        return self.results.lineage.fingerprints[EXPORT]

    @property
    def pairs(self) -> Path:
        """Folder of the manifest and, beside it, of the key."""
        return self.store.folder(EXPORT, self.comparison)

    @property
    def labels(self) -> Path:
        """Folder of what the page writes for these pairs; other pairs have another."""
        return self.folder / "labels" / self.comparison


def find_run(workspace: str, name: str | None) -> FinishedRun:
    """The run of that name in `workspace`, a folder or s3://bucket/prefix; the only one where no name is given.

    Raises UserError where there is none, or where several could be meant.
    """
    store = store_in(workspace)
    names = store.runs(RESULTS)
    if name is None and len(names) != 1:
        has = f"holds several runs ({', '.join(names)}); choose one with --run" if names else "holds no finished run"
        raise UserError(f"{workspace}: {has}; --workspace names another folder, `rlhf run` makes a run")
    chosen = name or names[0]
    if chosen not in names:
        raise UserError(f"{workspace}: no finished run {chosen}; there are {', '.join(names) or 'none'}")
    folder = store.run_folder(chosen)
    store.take(folder, [RESULTS, CONFIG, LABELS])
    try:
        results = Results.model_validate_json((folder / RESULTS).read_bytes())
    except ValidationError:
        raise UserError(
            f"{folder / RESULTS}: written by another version; `rlhf run PROFILE --name {chosen}` rebuilds it"
        ) from None
    return FinishedRun(folder, store, results)


@contextmanager
def open_run(workspace: str, name: str | None) -> Iterator[FinishedRun]:
    """What `find_run` finds, with the artifacts that human evaluation reads on this machine while the body runs.

    Raises UserError too where the pairs are not as they were made.
    """
    run = find_run(workspace, name)
    stages = [(stage.name.partition("[")[0], stage.fingerprint) for stage in run.results.stages]
    read = [run.store.folder(stage, fingerprint) for stage, fingerprint in stages if stage in READ]
    with run.store.at_hand([run.pairs, *read]):
        if problems := damage(run.pairs):
            raise UserError(f"{'; '.join(problems)}; `rlhf run PROFILE --name {run.folder.name}` rebuilds it")
        yield run


def refresh(run: FinishedRun) -> None:
    """Write results.json, report.html and model card of the run with what people said; in S3 too if it is there."""
    fingerprint = next(stage.fingerprint for stage in run.results.stages if stage.name == "aggregate_results")
    artifact = run.store.folder("aggregate_results", fingerprint)
    if problems := damage(artifact):
        raise UserError(f"{'; '.join(problems)}; `rlhf run PROFILE --name {run.folder.name}` rebuilds it")
    with_stages(artifact, run.results.stages, run.folder / RESULTS, run.folder / REPORT)
    refresh_card(run.folder)
    run.store.share(run.folder, [name for name in (LABELS, REPORT, RESULTS) if (run.folder / name).exists()])


def write_results(results: Results, evidence: Evidence, figures: Path, report: Path) -> None:
    """Write results.json to `figures` and report.html to `report`."""
    write_atomically(figures, results.model_dump_json(indent=2) + "\n")
    write_atomically(report, render_report(results, evidence))


def with_stages(artifact: Path, stages: list[StageRow], figures: Path, report: Path) -> None:
    """Write the results of the finished aggregate_results `artifact` again, with what each stage of this run took.

    Labels that were imported for the same pairs, beside `figures`, are part of them.
    """
    results = Results.model_validate_json((artifact / RESULTS).read_bytes())
    evidence = read_evidence(artifact)
    comparison = results.lineage.fingerprints["export_labeling_manifest"]
    labels = read_labels(figures.parent, comparison)
    update: dict[str, object] = {"stages": stages}
    if labels is not None:
        update["human_evaluation"] = labels.evaluation
    write_results(results.model_copy(update=update), evidence, figures, report)


def read_evidence(artifact: Path) -> Evidence:
    """The evidence of a finished aggregate_results `artifact`."""
    return Evidence.model_validate_json((artifact / EVIDENCE).read_bytes())


def read_labels(folder: Path, comparison: str) -> ImportedLabels | None:
    """What people said of the pairs with this fingerprint; None where nothing was imported for them."""
    try:
        labels = ImportedLabels.model_validate_json((folder / LABELS).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return labels if labels.comparison == comparison else None
