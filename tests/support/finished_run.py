"""A workspace with one finished run, built without any training."""

from __future__ import annotations

import shutil
from pathlib import Path

from rlhf.labeling.ground_truth_output import OutputWriter
from rlhf.labeling.judgements import Choices, Judgement
from rlhf.labeling.manifest import read_blinded_pairs
from rlhf.results.schema import REPORT, RESULTS, Results, StageRow
from rlhf.runs.published import FinishedRun, find_run, write_with_stage_times
from rlhf.stages.aggregate_results import aggregate_results
from rlhf.storage.artifacts import Store, read_manifest
from rlhf.storage.fingerprints import digest
from tests.support.artifacts import finish
from tests.support.results_fixture import fake_config, fake_run


def finished_run(root: Path, prompts: int = 12) -> FinishedRun:
    """Build the run `fake` in the workspace `root / "runs"`."""
    workspace = root / "runs"
    store = Store(workspace / "artifacts")
    inputs = {}
    for name, folder in fake_run(root / "stages", prompts=prompts).items():
        manifest = read_manifest(folder)
        assert manifest is not None
        inputs[name] = store.folder(manifest.stage, manifest.fingerprint)
        inputs[name].parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, inputs[name])
    artifact = store.folder("aggregate_results", digest("results")[:16])
    artifact.mkdir(parents=True)
    aggregate_results(fake_config(), inputs, artifact)
    finish(artifact, "aggregate_results", artifact.name)
    stages = Results.model_validate_json((artifact / RESULTS).read_bytes()).stages
    last = StageRow(name="aggregate_results", seconds=1.0, cached=False, fingerprint=artifact.name, device="cpu")
    folder = workspace / "fake"
    folder.mkdir()
    write_with_stage_times(artifact, [*stages, last], folder / RESULTS, folder / REPORT)
    return find_run(str(workspace), None)


def judgement(
    pair_id: str, annotator: str = "w-1", overall: str = "a", left: str = "a", seconds: float = 8.0
) -> Judgement:
    """An answer that calls A and B equally helpful and harmless."""
    return Judgement(
        pair_id=pair_id,
        annotator=annotator,
        choices=Choices.model_validate({"helpfulness": "tie", "harmlessness": "tie", "overall": overall}),
        left="a" if left == "a" else "b",
        seconds=seconds,
        submitted_at="2026-01-02T03:04:05.678+00:00",
    )


def write_output(run: FinishedRun, folder: Path, judgements: list[Judgement]) -> Path:
    """Write an output folder with these answers; returns its manifest."""
    OutputWriter(folder, read_blinded_pairs(run.pairs)).write(judgements)
    return folder / "manifests" / "output" / "output.manifest"
