"""Import labels: validate, unblind, and complete the report of a run."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import NamedTuple

from rlhf.errors import UserError
from rlhf.evaluation.human_preference import evaluate, unblind
from rlhf.labeling.ground_truth_output import OUTPUT_MANIFEST
from rlhf.labeling.ground_truth_reader import read_label_output
from rlhf.labeling.manifest import read_blinded_pairs, read_key
from rlhf.labeling.problems import first_problems
from rlhf.labeling.session import OUTPUT, LabelingSession, SessionInUseError
from rlhf.results.human_evaluation import HumanEvaluation
from rlhf.results.schema import LABELS, ImportedLabels
from rlhf.runs.published import FinishedRun, read_labels, read_report_data, rebuild_report, results_artifact
from rlhf.storage.files import write_atomically


class IncompleteError(UserError):
    """The labels are valid, but some are missing."""


class Imported(NamedTuple):
    """Outcome of an import."""

    evaluation: HumanEvaluation
    rejected: list[str]
    """The first problems of lines that were not imported, and how many more there are."""
    missing: list[str]
    """Ids of pairs without an answer."""
    recovered: list[str]
    """The first problems of the page's own files, which an interrupted write may have left."""


def import_labels(run: FinishedRun, source: str | None, *, partial: bool) -> Imported:
    """Validate and unblind labels, and rebuild results and report of `run`; no stage runs.

    Without a `source`, the labels are those of the labeling page on this machine.  Raises UserError and changes
    nothing if a label is invalid (IncompleteError if labels are only missing); with `partial`, only if none is valid.
    """
    location, recovered = (source, []) if source else _own_output(run)
    pairs, key = read_blinded_pairs(run.pairs), read_key(run.pairs)
    labels = read_label_output(location, pairs, run.labeling_task)
    absent = [f"pair {pair_id}: no answer" for pair_id in labels.missing]
    if not labels.judgements or (not partial and (labels.problems or absent)):
        remedy = "nothing can be imported" if partial else "nothing was imported; --partial imports the valid answers"
        raise (UserError if labels.problems else IncompleteError)(
            "\n  ".join([f"{location}: {remedy}", *first_problems(labels.problems), *first_problems(absent)])
        )
    responses = read_report_data(results_artifact(run)).responses
    evaluation = evaluate(labels.judgements, key, responses, run.results.lineage.seed)
    model = {1: "rlhf", 0: "tie", -1: "sft"}
    imported = ImportedLabels(
        labeling_task=run.labeling_task,
        source=location,
        evaluation=evaluation,
        judgements=[
            {
                "prompt": key[judgement.pair_id].prompt_id,
                "annotator": judgement.annotator,
                **{question: model[vote] for question, vote in unblind(judgement, key[judgement.pair_id]).items()},
                **judgement.model_dump(include={"seconds", "comment", "submitted_at"}),
            }
            for judgement in labels.judgements
        ],
    )
    if read_labels(run.folder, run.labeling_task) != imported or run.results.human_evaluation != evaluation:
        write_atomically(run.folder / LABELS, imported.model_dump_json(indent=2, ensure_ascii=True) + "\n")
        rebuild_report(run)
    return Imported(evaluation, first_problems(labels.problems), labels.missing, first_problems(recovered))


def _own_output(run: FinishedRun) -> tuple[str, list[str]]:
    """The labeling page's output manifest, and problems of the page's files.

    If no page has them open, the output files are brought up to date.
    """
    if not run.labels.is_dir():
        raise UserError(
            f"{run.folder.name}: nobody has labeled yet; "
            f"`rlhf label serve --run {run.folder.name}` starts the labeling page"
        )
    problems: list[str] = []
    with suppress(SessionInUseError), closing(LabelingSession(run.pairs, run.labels)) as session:
        problems = session.problems
    return str(run.labels / OUTPUT / OUTPUT_MANIFEST), problems
