"""Import labels: validate, unblind, and complete the report of a run."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rlhf.errors import UserError
from rlhf.evaluation.human_preference import evaluate, rewards_by_id, unblind
from rlhf.labeling.ground_truth_output import OUTPUT_MANIFEST
from rlhf.labeling.ground_truth_reader import read_output
from rlhf.labeling.manifest import read_items, read_key
from rlhf.labeling.session import OUTPUT, Labels, LabelsInUseError
from rlhf.results.human_evaluation import HumanEvaluation
from rlhf.results.schema import LABELS, ImportedLabels
from rlhf.runs.published import FinishedRun, read_labels, refresh
from rlhf.storage.artifacts import read_manifest
from rlhf.storage.files import read_jsonl, write_atomically


class IncompleteError(UserError):
    """All is well with the labels, but there are not enough of them yet."""


class Imported(NamedTuple):
    """What an import did."""

    evaluation: HumanEvaluation
    left_out: list[str]
    """Lines that were not as they should be."""
    missing: list[str]
    """Items without an answer."""


def import_labels(run: FinishedRun, source: str | None, *, partial: bool) -> Imported:
    """Read labels, unblind them and write results and report of `run` again; nothing else runs.

    Without a `source` the labels are those of this machine's page.  Raises UserError, and changes nothing, where
    anything is wrong (IncompleteError where something is only missing); with `partial` only where nothing is left.
    """
    place = source or str(_own_output(run) / OUTPUT_MANIFEST)
    items, key = read_items(run.pairs), read_key(run.pairs)
    found = read_output(place, items, run.comparison)
    absent = [f"item {name}: no answer" for name in found.missing]
    if not found.judgements or (not partial and (found.problems or absent)):
        remedy = "nothing can be imported" if partial else "nothing was imported; --partial takes what is good"
        raise (UserError if found.problems else IncompleteError)(
            "\n  ".join([f"{place}: {remedy}", *found.problems, *absent])
        )
    evaluation = evaluate(found.judgements, key, _rewards(run), run.results.lineage.seed)
    model = {1: "rlhf", 0: "tie", -1: "sft"}
    labels = ImportedLabels(
        comparison=run.comparison,
        source=place,
        evaluation=evaluation,
        judgements=[
            {
                "prompt": key[judgement.item].id,
                "annotator": judgement.annotator,
                **{question: model[vote] for question, vote in unblind(judgement, key[judgement.item]).items()},
                **judgement.model_dump(include={"seconds", "comment", "submitted_at"}),
            }
            for judgement in found.judgements
        ],
    )
    if read_labels(run.folder, run.comparison) != labels or run.results.human_evaluation != evaluation:
        write_atomically(run.folder / LABELS, labels.model_dump_json(indent=2, ensure_ascii=True) + "\n")
        refresh(run)
    return Imported(evaluation, found.problems, found.missing)


def _own_output(run: FinishedRun) -> Path:
    """Folder of the page's output, made whole where no page is open that does so itself."""
    if not run.labels.is_dir():
        raise UserError(
            f"{run.folder.name}: nobody has labelled yet; `rlhf label serve --run {run.folder.name}` opens the page"
        )
    with suppress(LabelsInUseError):
        Labels(run.pairs, run.labels).close()
    return run.labels / OUTPUT


def _rewards(run: FinishedRun) -> dict[str, tuple[float, float]]:
    manifest = read_manifest(run.pairs)
    assert manifest is not None, f"{run.pairs} is not finished"
    folders = [
        run.store.folder("generate_responses", manifest.inputs[name]) for name in ("sft_responses", "rlhf_responses")
    ]
    return rewards_by_id(*(read_jsonl(folder / "responses.jsonl") for folder in folders))
