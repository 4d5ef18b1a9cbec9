"""Stage: compute the metrics of a run and write results.json, report_data.json and report.html.

Takes the artifacts of all earlier stages.  Equal inputs give equal files, except for the times of the stages.
"""

from __future__ import annotations

import json
from pathlib import Path

from rlhf.evaluation.human_preference import evaluate
from rlhf.evaluation.intervals import sign_test_p_value, wilson_interval
from rlhf.evaluation.measurements import (
    capability,
    machine_judges,
    machine_votes,
    policy_comparison,
    reward_results,
    seed_results,
    toxicity_results,
)
from rlhf.evaluation.over_optimization import over_optimization
from rlhf.evaluation.reward_hacking import reward_hacking_signs
from rlhf.evaluation.run_data import read_run
from rlhf.evaluation.verdict import complete
from rlhf.labeling.manifest import read_key
from rlhf.report.lineage import device_of, is_synthetic, lineage, stage_label
from rlhf.report.report_data import collect_report_data
from rlhf.results.schema import (
    REPORT,
    REPORT_DATA,
    RESULTS,
    CalibrationBin,
    DataResults,
    Measurements,
    RewardModelResults,
    StageRow,
)
from rlhf.runs.published import write_results
from rlhf.runtime.stage import main
from rlhf.stage_config import ReportStage
from rlhf.storage.artifacts import Manifest, read_manifest
from rlhf.storage.files import read_jsonl


def aggregate_results(config: ReportStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Write results and report to `output`; returns the most important metrics."""
    run, manifests = read_run(config, inputs), {name: _manifest(folder) for name, folder in inputs.items()}
    chosen = {row["id"]: float(str(row["score"])) for row in read_jsonl(inputs["reward"] / "chosen_scores.jsonl")}
    reward = reward_results(
        run, [chosen[row["id"]] for row in run.sft.responses], config.seed, is_delta=config.ppo.subtract_chosen_score
    )
    toxicity = toxicity_results(run, config.toxicity.classifier, config.seed)
    policies = policy_comparison(run, config.seed)
    reward_model = reward_model_results(inputs["reward"])
    judge = reward_model_results(inputs["judge"]) if "judge" in inputs else None
    measured = Measurements(
        run_name=config.run_name,
        synthetic=is_synthetic(config),
        control=config.control,
        primary_endpoints=config.evaluation.primary_endpoints,
        judges=machine_judges(run, judge, reward_model),
        reward=reward,
        toxicity=toxicity,
        policy_comparison=policies,
        reward_hacking_signs=reward_hacking_signs(reward.difference, policies),
        human_evaluation=evaluate([], read_key(inputs["labeling"]), [], config.seed),
        seeds=seed_results(run, config.seed),
        over_optimisation=over_optimization(run),
        capability=capability(run, config.seed),
        reward_model=reward_model,
        data=data_results(inputs["data"]),
        lineage=lineage(config, manifests),
        stages=[stage_row(name, manifest) for name, manifest in manifests.items()],
    )
    results = complete(measured, measured.human_evaluation)
    report_data = collect_report_data(run, results, machine_votes(run), kl_target=config.ppo.kl_target)
    (output / REPORT_DATA).write_text(report_data.model_dump_json(indent=2) + "\n", encoding="utf-8")
    write_results(results, report_data, output / RESULTS, output / REPORT)
    return {
        "reward_difference": reward.difference.mean,
        "toxicity_sft": toxicity.sft.mean,
        "toxicity_rlhf": toxicity.rlhf.mean,
        "toxicity_difference": toxicity.difference.mean,
    }


def reward_model_results(reward: Path) -> RewardModelResults:
    """Accuracy and calibration of a reward model on validation pairs, from the artifact of its training."""
    evaluation = json.loads((reward / "evaluation.json").read_bytes())
    right = evaluation["accuracy"] * evaluation["pairs"]
    return RewardModelResults(
        accuracy=evaluation["accuracy"],
        ci95=(evaluation["accuracy_low"], evaluation["accuracy_high"]),
        p_value=sign_test_p_value(int(right), int(evaluation["pairs"] - right)),
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


def _manifest(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    assert manifest is not None, f"{folder} is not finished"
    return manifest


if __name__ == "__main__":
    main(ReportStage, aggregate_results)
