"""What the results of a run depend on, from its settings and the manifests of its artifacts."""

from __future__ import annotations

import re

from rlhf.config import HUB, SYNTHETIC, ModelConfig
from rlhf.results.schema import Lineage
from rlhf.stage_config import ReportStage
from rlhf.storage.artifacts import Manifest

VARIANT = re.compile(r"(sft|rlhf|judge)(?=_)|rlhf-\d+")
"""Beginning of the name of an input whose stage runs several times: the model that it is about."""


def stage_label(name: str, manifest: Manifest) -> str:
    """Name of the stage that produced the input `name`, with the model in brackets if it runs once per model."""
    variant = VARIANT.match(name)
    return f"{manifest.stage}[{variant[0]}]" if variant else manifest.stage


def device_of(manifest: Manifest) -> str:
    """Device of a stage, with the number of processes if there were several."""
    return manifest.device if manifest.processes == 1 else f"{manifest.processes} x {manifest.device}"


def is_synthetic(config: ReportStage) -> bool:
    """Whether the base model, the dialogues or the toxicity prompts are synthetic."""
    synthetic_model = config.model.path is None and config.model.synthetic is not None
    return synthetic_model or SYNTHETIC in (config.data.source, config.toxicity.prompts)


def lineage(config: ReportStage, manifests: dict[str, Manifest]) -> Lineage:
    """Seed, fingerprints, revisions, versions and devices of a run."""
    versions: dict[str, set[str]] = {}
    for manifest in manifests.values():
        for package, version in manifest.versions.items():
            versions.setdefault(package, set()).add(version)
    return Lineage(
        seed=config.seed,
        fingerprints={stage_label(name, manifest): manifest.fingerprint for name, manifest in manifests.items()},
        revisions=revisions(config, manifests),
        versions={package: ", ".join(sorted(numbers)) for package, numbers in sorted(versions.items())},
        devices={stage_label(name, manifest): device_of(manifest) for name, manifest in manifests.items()},
    )


def revisions(config: ReportStage, manifests: dict[str, Manifest]) -> dict[str, str]:
    """Sources of models, dialogues and toxicity prompts.  A user's own files are identified by their fingerprint."""

    def own_files(name: str) -> str:
        return f"own files, fingerprint {manifests[name].inputs['source']}"

    def origin(source: str, name: str, repository: str, revision: str) -> str:
        if source == HUB:
            return f"{repository}@{revision}"
        return "synthetic" if source == SYNTHETIC else own_files(name)

    def base_model(model: ModelConfig, name: str) -> str:
        source = model.path or (SYNTHETIC if model.synthetic else HUB)
        return origin(source, name, model.repository, model.revision)

    data, toxicity, judge = config.data, config.toxicity, config.judge.model
    return {
        "base model": base_model(config.model, "model"),
        **(
            {"base model of the judge": base_model(judge, "judge_model")}
            if judge and "judge_model" in manifests
            else {}
        ),
        "dialogues": origin(data.source, "data", data.repository, data.revision),
        "reward model": own_files("reward") if config.reward.path else "trained in this run",
        "toxicity prompts": origin(toxicity.prompts, "sft_toxicity", toxicity.repository, toxicity.revision),
    }
