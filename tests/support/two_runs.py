"""Finished runs in one workspace, to compare."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from rlhf.config import DataConfig, ModelConfig, PpoConfig, RunConfig, SyntheticModel, ToxicityConfig
from rlhf.results.schema import StageRow
from rlhf.runs.published import write_with_stage_times
from rlhf.stages.aggregate_results import aggregate_results
from tests.support.artifacts import finish
from tests.support.results_fixture import fake_config, fake_run


def publish(workspace: Path, name: str, *, effect: float, steps: int) -> None:
    """Write a finished run of that name to `workspace`, as `rlhf run` does."""
    inputs = fake_run(workspace / f"parts-{name}", effect=effect)
    artifact = workspace / "artifacts" / "aggregate_results" / name
    artifact.mkdir(parents=True)
    aggregate_results(fake_config(), inputs, artifact)
    labeling = workspace / "artifacts" / "export_labeling_manifest" / name
    shutil.copytree(inputs["labeling"], labeling)
    finish(artifact, "aggregate_results", name)
    finish(labeling, "export_labeling_manifest", name)
    content = json.loads((artifact / "results.json").read_bytes())
    content["lineage"]["fingerprints"]["export_labeling_manifest"] = name
    content["lineage"]["versions"]["torch"] = f"2.{steps}.0"
    (artifact / "results.json").write_text(json.dumps(content))
    finish(artifact, "aggregate_results", name)
    run = workspace / name
    run.mkdir()
    stage = StageRow(name="aggregate_results", seconds=2.0, cached=False, fingerprint=name, device="cpu")
    write_with_stage_times(artifact, [stage], run / "results.json", run / "report.html")
    config = RunConfig(
        run_name=name,
        model=ModelConfig(synthetic=SyntheticModel()),
        data=DataConfig(source="synthetic"),
        toxicity=ToxicityConfig(prompts="synthetic", classifier="profanity-check"),
        ppo=PpoConfig(steps=steps),
    )
    (run / "config.json").write_text(config.model_dump_json())
