"""Comparison of two finished runs: their metrics, warnings if these are not comparable, and settings that differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from rlhf.config import flatten
from rlhf.errors import UserError
from rlhf.report.formatting import format_number, format_signed
from rlhf.report.page import TEMPLATES, make_environment
from rlhf.results.headline import HeadlineMetric, headline_metrics
from rlhf.results.schema import CONFIG, REPORT_DATA, RESULTS, Plot, ReportData, Results
from rlhf.storage.artifacts import Store

MISSING = "none"


class RunFiles(NamedTuple):
    """Published files of one run."""

    folder: Path
    results: Results
    settings: dict[str, str]
    """Values as JSON, by dotted name."""
    report_data: ReportData | None
    """None if the run's folder was copied without its artifacts."""


class MetricRow(NamedTuple):
    """One metric of both runs, as text."""

    name: str
    first: str
    first_interval: str
    """95 % interval, or empty."""
    second: str
    second_interval: str
    change: str
    """Second minus first, or empty."""


class ChangedSetting(NamedTuple):
    """One setting, version or source that differs."""

    name: str
    first: str
    second: str


class RunComparison(NamedTuple):
    """Content of the page."""

    names: tuple[str, str]
    metrics: list[MetricRow]
    warnings: list[str]
    """Reasons why some metrics cannot be compared."""
    settings: list[ChangedSetting]
    provenance: list[ChangedSetting]
    """Sources of models and data, and versions, that differ."""


def read_run(folder: Path) -> RunFiles:
    """Read the run published in `folder`.  Raises UserError if its files are missing or written by another version."""
    if not (folder / RESULTS).is_file() or not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: no {RESULTS} and {CONFIG}; name the folder of a finished run, WORKSPACE/NAME")
    try:
        results = Results.model_validate_json((folder / RESULTS).read_bytes())
        settings = json.loads((folder / CONFIG).read_bytes())
    except ValueError:
        raise UserError(
            f"{folder}: written by another version; `rlhf run PROFILE --name {folder.name}` rebuilds it"
        ) from None
    fingerprint = next((row.fingerprint for row in results.stages if row.name == "aggregate_results"), "")
    report_data = _read_report_data(folder.absolute().parent / "artifacts", fingerprint)
    return RunFiles(
        folder, results, {name: json.dumps(value) for name, value in flatten(settings).items()}, report_data
    )


def compare_runs(first: RunFiles, second: RunFiles) -> RunComparison:
    """Metrics of both runs, warnings, and differences in settings and provenance."""
    before, after = first.results.lineage, second.results.lineage
    provenance = [
        *_differing(before.revisions, after.revisions),
        *_differing(before.versions, after.versions),
    ]
    return RunComparison(
        names=_names(first.folder, second.folder),
        metrics=metric_rows(first.results, second.results),
        warnings=comparability_warnings(first.results, second.results),
        settings=_differing(first.settings, second.settings),
        provenance=provenance,
    )


def metric_rows(first: Results, second: Results) -> list[MetricRow]:
    """Metrics of both runs in the order of the report."""
    rows = [
        _row("PPO step of the best checkpoint", first.reward.best_step, second.reward.best_step, 0),
    ]
    for metrics in zip(headline_metrics(first), headline_metrics(second), strict=True):
        rows += _model_rows(*metrics)
    kl, other_kl = first.policy_comparison.kl, second.policy_comparison.kl
    rm, other_rm = first.reward_model, second.reward_model
    name = "KL to the SFT model, nats per response"
    return [
        *rows,
        _row(name, kl.per_response, other_kl.per_response, 2, kl.ci95, other_kl.ci95),
        _row("Reward model accuracy", rm.accuracy, other_rm.accuracy, 3, rm.ci95, other_rm.ci95),
        _row("Reward model calibration error", rm.calibration_error, other_rm.calibration_error, 3),
        MetricRow("Headline", first.verdict.headline, "", second.verdict.headline, "", ""),
        MetricRow("Preferred by people: RLHF, tie, SFT", _preference(first), "", _preference(second), "", ""),
        _judge_row(first, second),
        MetricRow("Signs of reward hacking", _signs(first), "", _signs(second), "", ""),
        _row("Total seconds of all stages", _seconds(first), _seconds(second), 0),
    ]


def comparability_warnings(first: Results, second: Results) -> list[str]:
    """Reasons why some metrics of the two runs cannot be compared; empty if all can."""
    one, two = first.lineage.fingerprints, second.lineage.fingerprints
    warnings = []
    if one["train_reward"] != two["train_reward"]:
        warnings.append("The reward models differ, so their rewards are on different scales.")
    if one.get("train_judge") != two.get("train_judge"):
        warnings.append("The independent judges differ, so their win rates are not comparable.")
    if one["prepare_data"] != two["prepare_data"]:
        warnings.append("The prepared data differ, so test prompts and validation rows are not the same.")
    same_prompts = first.lineage.revisions["toxicity prompts"] == second.lineage.revisions["toxicity prompts"]
    same_draw = (first.lineage.seed, first.toxicity.sft.n) == (second.lineage.seed, second.toxicity.sft.n)
    if first.toxicity.classifier != second.toxicity.classifier:
        warnings.append("Different classifiers scored toxicity.")
    if not same_prompts or not same_draw:
        warnings.append("The toxicity prompts are not the same.")
    if first.synthetic != second.synthetic:
        warnings.append("One of the runs uses synthetic data.")
    return warnings


def render_run_comparison(comparison: RunComparison, plots: list[Plot]) -> str:
    """The page as one self-contained HTML file."""
    return (
        make_environment()
        .get_template("run_comparison.html")
        .render(comparison=comparison, plots=plots, style=(TEMPLATES / "report.css").read_text(encoding="utf-8"))
    )


def _read_report_data(store: Path, fingerprint: str) -> ReportData | None:
    path = Store(store).folder("aggregate_results", fingerprint) / REPORT_DATA
    try:
        return ReportData.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _differing(first: dict[str, str], second: dict[str, str]) -> list[ChangedSetting]:
    rows = (ChangedSetting(name, first.get(name, MISSING), second.get(name, MISSING)) for name in {**first, **second})
    return [row for row in rows if row.first != row.second]


def _names(first: Path, second: Path) -> tuple[str, str]:
    """Names of the folders, with their workspaces if the names are equal."""
    one, two = first.absolute(), second.absolute()
    if one.name != two.name:
        return one.name, two.name
    return f"{one.parent.name}/{one.name}", f"{two.parent.name}/{two.name}"


def _model_rows(first: HeadlineMetric, second: HeadlineMetric) -> list[MetricRow]:
    """One row per model and one for their difference."""
    title, digits = first.title, first.digits
    one, two = first.difference, second.difference
    return [
        _row(f"{title}, SFT", first.sft, second.sft, digits),
        _row(f"{title}, RLHF", first.rlhf, second.rlhf, digits),
        _row(f"{title}, RLHF minus SFT", one.mean, two.mean, digits, one.ci95, two.ci95),
    ]


def _row(name: str, first: float, second: float, digits: int, *intervals: tuple[float, float]) -> MetricRow:
    first_interval, second_interval = (
        [f"{format_number(low, digits)} to {format_number(high, digits)}" for low, high in intervals]
        if intervals
        else ["", ""]
    )
    return MetricRow(
        name,
        format_number(first, digits),
        first_interval,
        format_number(second, digits),
        second_interval,
        format_signed(second - first, digits),
    )


def _preference(results: Results) -> str:
    people = results.human_evaluation
    if people.status == "pending":
        return people.status
    counts = people.questions[-1].pairs
    return f"{counts.wins}, {counts.ties}, {counts.losses}"


def _judge_row(first: Results, second: Results) -> MetricRow:
    """Win rates at equal length by the independent judges, if there are any."""
    rates = [
        next((judge.length_controlled_win_rate for judge in results.judges if judge.kind == "independent"), None)
        for results in (first, second)
    ]
    texts = [
        ("none", "") if rate is None else (_share(rate.mean), " to ".join(map(_share, rate.ci95))) for rate in rates
    ]
    return MetricRow("Win rate by the independent judge, at equal length", *texts[0], *texts[1], "")


def _share(value: float) -> str:
    return f"{format_number(100 * value, 1)} %"


def _signs(results: Results) -> str:
    return ", ".join(sign.metric for sign in results.reward_hacking_signs) or "none"


def _seconds(results: Results) -> float:
    return sum(stage.seconds for stage in results.stages)
