"""Stage: compute the metrics of a run and write results.json, report_data.json and report.html.

Takes the artifacts of all earlier stages.  Equal inputs give equal files, except for the times of the stages.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from rlhf.evaluation.human_preference import evaluate, rewards_by_id
from rlhf.evaluation.intervals import bootstrap_interval, paired_difference, wilson_interval
from rlhf.evaluation.reward_hacking import reward_hacking_signs
from rlhf.evaluation.toxicity.continuations import CONTINUATIONS, Continuation, iter_continuations
from rlhf.evaluation.toxicity.metrics import toxicity_metrics
from rlhf.labeling.manifest import read_key
from rlhf.report.lineage import device_of, is_synthetic, lineage, stage_label
from rlhf.report.report_data import Rows, collect_report_data
from rlhf.results.base import Difference, Mean, PairedMetric
from rlhf.results.policy_comparison import (
    RESPONSE_METRICS,
    VALIDATION_LOSS,
    KlResults,
    PolicyComparison,
    ResponseRow,
    ValidationLossRow,
)
from rlhf.results.schema import (
    REPORT,
    REPORT_DATA,
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
    """Write results and report to `output`; returns the most important metrics."""
    responses = [read_jsonl(inputs[name] / "responses.jsonl") for name in ("sft_responses", "rlhf_responses")]
    continuations = [
        list(iter_continuations(inputs[name] / CONTINUATIONS)) for name in ("sft_toxicity", "rlhf_toxicity")
    ]
    comparison = inputs["policy_comparison"]
    response_rows = [ResponseRow.model_validate(row) for row in read_jsonl(comparison / RESPONSE_METRICS)]
    loss_rows = [ValidationLossRow.model_validate(row) for row in read_jsonl(comparison / VALIDATION_LOSS)]
    _require_pairs([[row["id"] for row in rows] for rows in responses])
    _require_pairs([[row["id"] for row in responses[0]], [row.id for row in response_rows]])
    _require_pairs([[(row.id, row.sample) for row in rows] for rows in continuations])
    manifests = {name: _manifest(folder) for name, folder in inputs.items()}

    toxicity = toxicity_results(continuations[0], continuations[1], config.toxicity.classifier, config.seed)
    reward = reward_results(config, inputs, responses[0], responses[1])
    policies = policy_comparison(loss_rows, response_rows, config.seed)
    results = Results(
        run_name=config.run_name,
        synthetic=is_synthetic(config),
        reward=reward,
        toxicity=toxicity,
        policy_comparison=policies,
        reward_hacking_signs=reward_hacking_signs(reward.difference, policies),
        human_evaluation=evaluate([], read_key(inputs["labeling"]), rewards_by_id(*responses), config.seed),
        reward_model=reward_model_results(inputs["reward"]),
        data=data_results(inputs["data"]),
        lineage=lineage(config, manifests),
        stages=[stage_row(name, manifest) for name, manifest in manifests.items()],
    )
    report_data = collect_report_data(
        config, inputs["rlhf"], results, responses=responses, rows=response_rows, continuations=continuations
    )
    (output / REPORT_DATA).write_text(report_data.model_dump_json(indent=2) + "\n", encoding="utf-8")
    write_results(results, report_data, output / RESULTS, output / REPORT)
    return {
        "reward_difference": reward.difference.mean,
        "toxicity_sft": toxicity.sft.mean,
        "toxicity_rlhf": toxicity.rlhf.mean,
        "toxicity_difference": toxicity.difference.mean,
    }


def reward_results(config: ReportStage, inputs: dict[str, Path], sft: Rows, rlhf: Rows) -> RewardResults:
    """Reward on the validation prompts during PPO, and of both models' responses to the test prompts."""
    summary = json.loads((inputs["rlhf"] / "summary.json").read_bytes())
    chosen = {row["id"]: row["score"] for row in read_jsonl(inputs["reward"] / "chosen_scores.jsonl")}
    before, after = _floats(sft, "reward"), _floats(rlhf, "reward")
    return RewardResults(
        is_delta=config.ppo.subtract_chosen_score,
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
    metrics = toxicity_metrics(sft, rlhf, seed)
    overall = metrics.labels[0].all
    mean = overall.mean
    return ToxicityResults(
        classifier=classifier,
        sft=Mean(mean=mean.sft, n=overall.prompts),
        rlhf=Mean(mean=mean.rlhf, n=overall.prompts),
        difference=Difference(mean=mean.difference, ci95=mean.ci95, p_value=mean.p_value),
        metrics=metrics,
    )


def policy_comparison(
    loss_rows: Sequence[ValidationLossRow], response_rows: Sequence[ResponseRow], seed: int
) -> PolicyComparison:
    """Validation loss, length and repetition of both models, paired, and the KL between them."""
    kl = [row.kl for row in response_rows]
    return PolicyComparison(
        validation_loss=_paired([row.sft_loss for row in loss_rows], [row.rlhf_loss for row in loss_rows], seed),
        response_tokens=_paired(
            [float(row.sft.tokens) for row in response_rows], [float(row.rlhf.tokens) for row in response_rows], seed
        ),
        repetition=_paired(
            [row.sft.repetition for row in response_rows], [row.rlhf.repetition for row in response_rows], seed
        ),
        kl=KlResults(
            per_response=fmean(kl),
            ci95=bootstrap_interval(kl, seed),
            per_token=sum(kl) / max(1, sum(row.rlhf.tokens for row in response_rows)),
            n=len(kl),
        ),
    )


def reward_model_results(reward: Path) -> RewardModelResults:
    """Accuracy and calibration of the reward model on validation pairs, from the train_reward artifact."""
    evaluation = json.loads((reward / "evaluation.json").read_bytes())
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


def data_results(data: Path) -> DataResults:
    """Row counts from the prepare_data artifact."""
    counts = json.loads((data / "dropped.json").read_bytes())
    return DataResults(read=counts["read"], kept=counts["kept"], dropped=counts["dropped"])


def stage_row(name: str, manifest: Manifest) -> StageRow:
    """Row of the stage that produced the input `name`."""
    return StageRow(
        name=stage_label(name, manifest),
        seconds=manifest.seconds,
        cached=False,
        fingerprint=manifest.fingerprint,
        device=device_of(manifest),
    )


def _require_pairs(ids: Sequence[Sequence[object]]) -> None:
    assert ids[0] == ids[1], "both models need the same prompts in the same order"


def _manifest(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    assert manifest is not None, f"{folder} is not finished"
    return manifest


def _mean(values: list[float]) -> Mean:
    return Mean(mean=fmean(values), n=len(values))


def _difference(before: list[float], after: list[float], seed: int) -> Difference:
    difference = paired_difference(before, after, seed)
    return Difference(mean=difference.mean, ci95=difference.ci95, p_value=difference.p_value)


def _paired(before: list[float], after: list[float], seed: int) -> PairedMetric:
    return PairedMetric(sft=_mean(before), rlhf=_mean(after), difference=_difference(before, after, seed))


def _floats(rows: Rows, name: str) -> list[float]:
    return [float(str(row[name])) for row in rows]


if __name__ == "__main__":
    main(ReportStage, aggregate_results)
