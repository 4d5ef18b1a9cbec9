"""The figures of a run, what they depend on, and the report: results.json, evidence.json and report.html.

Equal inputs give equal files, apart from the seconds that the steps took.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from rlhf.evaluation.human_preference import evaluate, rewards_by_id
from rlhf.evaluation.intervals import bootstrap_interval, paired_difference, wilson_interval
from rlhf.evaluation.reward_hacking import hacking_signs
from rlhf.evaluation.toxicity.continuations import CONTINUATIONS, Continuation, read_continuations
from rlhf.evaluation.toxicity.metrics import toxicity_figures
from rlhf.labeling.manifest import read_key
from rlhf.report.evidence import Rows, collect_evidence
from rlhf.report.lineage import device_of, is_synthetic, lineage, stage_label
from rlhf.results.base import Difference, Mean
from rlhf.results.policies import ANSWERS, HELD_OUT, AnswerRow, Compared, HeldOutRow, KlResults, PolicyResults
from rlhf.results.schema import (
    EVIDENCE,
    REPORT,
    RESULTS,
    CalibrationBin,
    DataResults,
    Results,
    RewardModelResults,
    RewardResults,
    StageRow,
    ToxicityResults,
)
from rlhf.runs.published import write_results
from rlhf.runtime.stage import main
from rlhf.stage_config import ReportStage
from rlhf.storage.artifacts import Manifest, read_manifest
from rlhf.storage.files import read_jsonl


def aggregate_results(config: ReportStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Write the results of the run into `output`; the figures are those that a person wants first."""
    responses = [read_jsonl(inputs[name] / "responses.jsonl") for name in ("sft_responses", "rlhf_responses")]
    continuations = [read_continuations(inputs[name] / CONTINUATIONS) for name in ("sft_toxicity", "rlhf_toxicity")]
    answers = [AnswerRow.model_validate(row) for row in read_jsonl(inputs["comparison"] / ANSWERS)]
    held_out = [HeldOutRow.model_validate(row) for row in read_jsonl(inputs["comparison"] / HELD_OUT)]
    _require_pairs([[row["id"] for row in rows] for rows in responses])
    _require_pairs([[row["id"] for row in responses[0]], [row.id for row in answers]])
    _require_pairs([[(row.id, row.sample) for row in rows] for rows in continuations])
    manifests = {name: _manifest(folder) for name, folder in inputs.items()}

    toxicity = toxicity_results(continuations[0], continuations[1], config.toxicity.classifier, config.seed)
    reward = reward_results(config, inputs, responses[0], responses[1])
    policies = policy_results(held_out, answers, config.seed)
    results = Results(
        run_name=config.run_name,
        synthetic=is_synthetic(config),
        reward=reward,
        toxicity=toxicity,
        policies=policies,
        warnings=hacking_signs(reward.difference, policies),
        human_evaluation=evaluate([], read_key(inputs["labeling"]), rewards_by_id(*responses), config.seed),
        reward_model=reward_model_results(inputs["reward"]),
        data=DataResults.model_validate_json((inputs["data"] / "left_out.json").read_bytes()),
        lineage=lineage(config, manifests),
        stages=[
            StageRow(
                name=stage_label(name, found),
                seconds=found.seconds,
                cached=False,
                fingerprint=found.fingerprint,
                device=device_of(found),
            )
            for name, found in manifests.items()
        ],
    )
    evidence = collect_evidence(
        config, inputs["rlhf"], results, responses=responses, answers=answers, continuations=continuations
    )
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
    summary = json.loads((inputs["rlhf"] / "summary.json").read_bytes())
    chosen = {row["id"]: row["score"] for row in read_jsonl(inputs["reward"] / "chosen_scores.jsonl")}
    before, after = _floats(sft, "reward"), _floats(rlhf, "reward")
    return RewardResults(
        relative=config.ppo.subtract_chosen_score,
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
    """Toxicity of both models' continuations and the paired differences."""
    figures = toxicity_figures(sft, rlhf, seed)
    overall = figures.labels[0].all
    mean = overall.mean
    return ToxicityResults(
        classifier=classifier,
        sft=Mean(mean=mean.sft, n=overall.prompts),
        rlhf=Mean(mean=mean.rlhf, n=overall.prompts),
        difference=Difference(mean=mean.difference, ci95=mean.ci95, p_value=mean.p_value),
        figures=figures,
    )


def reward_model_results(folder: Path) -> RewardModelResults:
    """The reward model's accuracy and calibration on held-out pairs."""
    evaluation = json.loads((folder / "evaluation.json").read_bytes())
    return RewardModelResults(
        accuracy=evaluation["accuracy"],
        ci95=(evaluation["accuracy_low"], evaluation["accuracy_high"]),
        pairs=evaluation["pairs"],
        mean_margin=evaluation["mean_margin"],
        loss=evaluation["loss"],
        calibration_error=evaluation["calibration_error"],
        calibration=[
            CalibrationBin(
                low=row["from"],
                high=row["to"],
                pairs=row["pairs"],
                expected=row["expected"],
                observed=row["observed"],
                ci95=wilson_interval(row["observed"] * row["pairs"], row["pairs"]),
            )
            for row in evaluation["calibration"]
        ],
    )


def policy_results(held_out: Sequence[HeldOutRow], answers: Sequence[AnswerRow], seed: int) -> PolicyResults:
    """Held-out loss, length and repetition of both models, paired, and the distance between them."""
    kl = [row.kl for row in answers]
    return PolicyResults(
        held_out_loss=_compared([row.sft_loss for row in held_out], [row.rlhf_loss for row in held_out], seed),
        answer_tokens=_compared(
            [float(row.sft.tokens) for row in answers], [float(row.rlhf.tokens) for row in answers], seed
        ),
        repetition=_compared([row.sft.repetition for row in answers], [row.rlhf.repetition for row in answers], seed),
        kl=KlResults(
            per_answer=fmean(kl),
            ci95=bootstrap_interval(kl, seed),
            per_token=sum(kl) / max(1, sum(row.rlhf.tokens for row in answers)),
            n=len(kl),
        ),
    )


def _require_pairs(ids: Sequence[Sequence[object]]) -> None:
    assert ids[0] == ids[1], "both models answer the same prompts in the same order"


def _manifest(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    assert manifest is not None, f"{folder} is not finished"
    return manifest


def _mean(values: list[float]) -> Mean:
    return Mean(mean=fmean(values), n=len(values))


def _difference(before: list[float], after: list[float], seed: int) -> Difference:
    found = paired_difference(before, after, seed)
    return Difference(mean=found.mean, ci95=found.ci95, p_value=found.p_value)


def _compared(before: list[float], after: list[float], seed: int) -> Compared:
    return Compared(sft=_mean(before), rlhf=_mean(after), difference=_difference(before, after, seed))


def _floats(rows: Rows, name: str) -> list[float]:
    return [float(str(row[name])) for row in rows]


if __name__ == "__main__":
    main(ReportStage, aggregate_results)
