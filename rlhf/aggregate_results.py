"""The figures of a run, what they depend on, and the report: results.json, evidence.json and report.html.

Equal inputs give equal files, apart from the seconds that the steps took.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

from rlhf.artifacts import Manifest, read_manifest
from rlhf.config import DEMONSTRATION, HUB, ReportStage
from rlhf.human_eval.evaluation import evaluate, rewards_by_id
from rlhf.human_eval.manifest import read_key
from rlhf.report.plots import Curve, plot_kl, plot_length, plot_reward, plot_toxicity, plot_toxicity_difference
from rlhf.report.results import (
    EVIDENCE,
    REPORT,
    RESULTS,
    AnswerPair,
    DataResults,
    Difference,
    Evidence,
    Lineage,
    Mean,
    Measurement,
    Results,
    RewardModelResults,
    RewardResults,
    StageRow,
    ToxicityResults,
    write_results,
)
from rlhf.stage import main, read_jsonl
from rlhf.statistics import paired_difference
from rlhf.toxicity.continuations import CONTINUATIONS, Continuation, read_continuations

RUNS_OF = {"sft_responses": "sft", "ppo_responses": "rlhf", "sft_toxicity": "sft", "ppo_toxicity": "rlhf"}
"""Inputs whose step runs once for each model, and the model's name."""

Rows = list[dict[str, object]]


def aggregate_results(config: ReportStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Write the results of the run into `output`; the figures are those that a person wants first."""
    responses = [read_jsonl(inputs[name] / "responses.jsonl") for name in ("sft_responses", "ppo_responses")]
    continuations = [read_continuations(inputs[name] / CONTINUATIONS) for name in ("sft_toxicity", "ppo_toxicity")]
    _require_pairs([[row["id"] for row in rows] for rows in responses])
    _require_pairs([[row.id for row in rows] for rows in continuations])
    manifests = {name: _manifest(folder) for name, folder in inputs.items()}

    toxicity = toxicity_results(continuations[0], continuations[1], config.toxicity.classifier, config.seed)
    reward = reward_results(config, inputs, responses[0], responses[1])
    results = Results(
        profile=config.profile,
        demonstration=is_demonstration(config),
        reward=reward,
        toxicity=toxicity,
        human_evaluation=evaluate([], read_key(inputs["labeling"]), rewards_by_id(*responses), config.seed),
        reward_model=reward_model_results(inputs["reward"]),
        data=DataResults.model_validate_json((inputs["data"] / "left_out.json").read_bytes()),
        lineage=lineage(config, manifests),
        stages=[
            StageRow(name=_label(name, found), seconds=found.seconds, cached=False, fingerprint=found.fingerprint)
            for name, found in manifests.items()
        ],
    )
    evidence = collect_evidence(config, inputs["ppo"], results, responses, continuations)
    (output / EVIDENCE).write_text(evidence.model_dump_json(indent=2) + "\n", encoding="utf-8")
    write_results(results, evidence, output / RESULTS, output / REPORT)
    return {
        "reward_difference": reward.difference.mean,
        "toxicity_sft": toxicity.sft.mean,
        "toxicity_rlhf": toxicity.rlhf.mean,
        "toxicity_difference": toxicity.difference.mean,
    }


def reward_results(config: ReportStage, inputs: dict[str, Path], sft: Rows, rlhf: Rows) -> RewardResults:
    """Reward on the validation prompts while PPO ran, and of both models' answers to the test prompts."""
    summary = json.loads((inputs["ppo"] / "summary.json").read_bytes())
    chosen = {row["id"]: row["score"] for row in read_jsonl(inputs["reward"] / "chosen_scores.jsonl")}
    before, after = _floats(sft, "reward"), _floats(rlhf, "reward")
    return RewardResults(
        relative=config.ppo.delta_reward,
        first=summary["first"],
        best=summary["best"],
        last=summary["last"],
        best_step=summary["best_step"],
        sft=_mean(before),
        rlhf=_mean(after),
        chosen=_mean([float(str(chosen[row["id"]])) for row in sft]),
        difference=_difference(before, after, config.seed),
    )


def toxicity_results(sft: list[Continuation], rlhf: list[Continuation], classifier: str, seed: int) -> ToxicityResults:
    """Mean toxicity of both models' continuations and the paired difference."""
    before, after = [row.toxicity for row in sft], [row.toxicity for row in rlhf]
    return ToxicityResults(
        classifier=classifier, sft=_mean(before), rlhf=_mean(after), difference=_difference(before, after, seed)
    )


def reward_model_results(folder: Path) -> RewardModelResults:
    """The reward model's accuracy on held-out pairs."""
    evaluation = json.loads((folder / "evaluation.json").read_bytes())
    return RewardModelResults(
        accuracy=evaluation["accuracy"],
        ci95=(evaluation["accuracy_low"], evaluation["accuracy_high"]),
        pairs=evaluation["pairs"],
    )


def collect_evidence(
    config: ReportStage, ppo: Path, results: Results, responses: list[Rows], continuations: list[list[Continuation]]
) -> Evidence:
    """Plots, the numbers of the reward curve and the answers."""
    validation, steps = read_jsonl(ppo / "validation.jsonl"), read_jsonl(ppo / "metrics.jsonl")
    sft, rlhf = ([row.toxicity for row in rows] for rows in continuations)
    return Evidence(
        training=[
            plot_reward(_curve(validation, "score"), _curve(steps, "score"), results.reward.best_step),
            plot_kl(_curve(steps, "kl"), config.ppo.kl_target),
            plot_length(_curve(steps, "response_tokens")),
        ],
        toxicity=[plot_toxicity(sft, rlhf), plot_toxicity_difference(sft, rlhf, results.toxicity.difference)],
        validation=[
            Measurement(step=step, reward=reward) for step, reward in zip(*_curve(validation, "score"), strict=True)
        ],
        answers=[
            AnswerPair(
                prompt=str(before["prompt"]),
                sft=str(before["answer"]),
                rlhf=str(after["answer"]),
                sft_reward=float(str(before["reward"])),
                rlhf_reward=float(str(after["reward"])),
            )
            for before, after in zip(*responses, strict=True)
        ],
    )


def is_demonstration(config: ReportStage) -> bool:
    """Whether anything that the figures rest on was generated by this package."""
    generated_model = config.model.path is None and config.model.demonstration is not None
    return generated_model or DEMONSTRATION in (config.data.source, config.toxicity.prompts)


def lineage(config: ReportStage, manifests: dict[str, Manifest]) -> Lineage:
    """Everything that the figures depend on."""
    versions: dict[str, set[str]] = {}
    for manifest in manifests.values():
        for package, version in manifest.versions.items():
            versions.setdefault(package, set()).add(version)
    return Lineage(
        seed=config.seed,
        fingerprints={_label(name, found): found.fingerprint for name, found in manifests.items()},
        revisions=revisions(config, manifests),
        versions={package: ", ".join(sorted(found)) for package, found in sorted(versions.items())},
        devices={
            _label(name, found): found.device if found.processes == 1 else f"{found.processes} x {found.device}"
            for name, found in manifests.items()
        },
    )


def revisions(config: ReportStage, manifests: dict[str, Manifest]) -> dict[str, str]:
    """Where models, dialogues and toxicity prompts come from.  A user's own files go by their fingerprint."""

    def own_files(name: str) -> str:
        return f"own files, fingerprint {manifests[name].inputs['source']}"

    def origin(place: str, name: str, repository: str, revision: str) -> str:
        if place == HUB:
            return f"{repository}@{revision}"
        return "generated demonstration" if place == DEMONSTRATION else own_files(name)

    model, data, toxicity = config.model, config.data, config.toxicity
    model_place = model.path or (DEMONSTRATION if model.demonstration else HUB)
    return {
        "base model": origin(model_place, "model", model.repository, model.revision),
        "dialogues": origin(data.source, "data", data.repository, data.revision),
        "reward model": own_files("reward") if config.reward.path else "trained in this run",
        "toxicity prompts": origin(toxicity.prompts, "sft_toxicity", toxicity.repository, toxicity.revision),
    }


def _require_pairs(ids: list[list[object]]) -> None:
    assert ids[0] == ids[1], "both models answer the same prompts in the same order"


def _manifest(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    assert manifest is not None, f"{folder} is not finished"
    return manifest


def _label(name: str, manifest: Manifest) -> str:
    return f"{manifest.step}[{RUNS_OF[name]}]" if name in RUNS_OF else manifest.step


def _mean(values: list[float]) -> Mean:
    return Mean(mean=fmean(values), n=len(values))


def _difference(before: list[float], after: list[float], seed: int) -> Difference:
    found = paired_difference(before, after, seed)
    return Difference(mean=found.mean, ci95=found.ci95, p_value=found.p_value)


def _floats(rows: Rows, name: str) -> list[float]:
    return [float(str(row[name])) for row in rows]


def _curve(rows: Rows, name: str) -> Curve:
    return Curve([int(str(row["step"])) for row in rows], _floats(rows, name))


if __name__ == "__main__":
    main(ReportStage, aggregate_results)
