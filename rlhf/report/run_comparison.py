"""Two finished runs side by side: their figures, whether these can be compared, and the settings that differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from rlhf.config import flatten
from rlhf.errors import UserError
from rlhf.report.page import TEMPLATES, make_environment, number, signed
from rlhf.results.base import Difference, Mean
from rlhf.results.schema import CONFIG, EVIDENCE, RESULTS, Evidence, Plot, Results
from rlhf.storage.artifacts import Store

MISSING = "none"


class RunFiles(NamedTuple):
    """What a run published."""

    folder: Path
    results: Results
    settings: dict[str, str]
    """By dotted name, as JSON."""
    evidence: Evidence | None
    """None where only the folder of the results was brought along."""


class Figure(NamedTuple):
    """One figure of both runs."""

    name: str
    first: str
    first_range: str
    """Its 95 % interval, or nothing."""
    second: str
    second_range: str
    change: str
    """Second minus first, or nothing."""


class Setting(NamedTuple):
    """One setting, version or origin that differs."""

    name: str
    first: str
    second: str


class TwoRuns(NamedTuple):
    """All that is shown."""

    names: tuple[str, str]
    figures: list[Figure]
    cautions: list[str]
    """Why some figures do not compare."""
    settings: list[Setting]
    origins: list[Setting]
    """Revisions, versions and seeds that differ."""


def read_run(folder: Path) -> RunFiles:
    """The run published in `folder`, WORKSPACE/PROFILE.  Raises UserError where there is none of this version."""
    if not (folder / RESULTS).is_file() or not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: no {RESULTS} and {CONFIG}; name the folder of a finished run, WORKSPACE/PROFILE")
    try:
        results = Results.model_validate_json((folder / RESULTS).read_bytes())
        settings = json.loads((folder / CONFIG).read_bytes())
    except ValueError:
        raise UserError(
            f"{folder}: written by another version; `rlhf run PROFILE --name {folder.name}` rebuilds it"
        ) from None
    fingerprint = next((row.fingerprint for row in results.stages if row.name == "aggregate_results"), "")
    evidence = _read_evidence(folder.absolute().parent / "artifacts", fingerprint)
    return RunFiles(folder, results, {name: json.dumps(value) for name, value in flatten(settings).items()}, evidence)


def compare_runs(first: RunFiles, second: RunFiles) -> TwoRuns:
    """Figures, cautions and differences."""
    before, after = first.results.lineage, second.results.lineage
    origins = [
        Setting(name, str(one.get(name, MISSING)), str(two.get(name, MISSING)))
        for one, two in ((before.revisions, after.revisions), (before.versions, after.versions))
        for name in {**one, **two}
    ]
    return TwoRuns(
        names=_names(first.folder, second.folder),
        figures=figures(first.results, second.results),
        cautions=cautions(first.results, second.results),
        settings=_differing(first.settings, second.settings),
        origins=[row for row in origins if row.first != row.second],
    )


def figures(first: Results, second: Results) -> list[Figure]:
    """Both runs' figures in the order of the report."""
    pairs: list[tuple[str, tuple[float, float], int]] = [
        ("Reward on validation prompts, before PPO", (first.reward.first, second.reward.first), 3),
        ("Reward on validation prompts, best", (first.reward.best, second.reward.best), 3),
        ("PPO step that was kept", (first.reward.best_step, second.reward.best_step), 0),
    ]
    rows = [_figure(name, one, two, digits) for name, (one, two), digits in pairs]
    for name, one, two, digits in (
        ("Reward of test answers", first.reward, second.reward, 3),
        ("Mean toxicity", first.toxicity, second.toxicity, 4),
        ("Held-out loss, nats per token", first.policies.held_out_loss, second.policies.held_out_loss, 3),
        ("Tokens per answer", first.policies.answer_tokens, second.policies.answer_tokens, 1),
        ("Repetition", first.policies.repetition, second.policies.repetition, 3),
    ):
        rows += _compared(name, (one.sft, one.rlhf, one.difference), (two.sft, two.rlhf, two.difference), digits)
    one_kl, two_kl = first.policies.kl, second.policies.kl
    one_judge, two_judge = first.reward_model, second.reward_model
    rows += [
        _figure(
            "KL to the SFT model, nats per answer", one_kl.per_answer, two_kl.per_answer, 2, one_kl.ci95, two_kl.ci95
        ),
        _figure("Reward model accuracy", one_judge.accuracy, two_judge.accuracy, 3, one_judge.ci95, two_judge.ci95),
        _figure("Reward model calibration error", one_judge.calibration_error, two_judge.calibration_error, 3),
        Figure("Preferred by people: RLHF, tie, SFT", _people(first), "", _people(second), "", ""),
        Figure("Signs of reward hacking", _signs(first), "", _signs(second), "", ""),
        _figure("Seconds of all steps", _seconds(first), _seconds(second), 0),
    ]
    return rows


def cautions(first: Results, second: Results) -> list[str]:
    """Why some figures of the two runs cannot be compared; empty where all can."""
    one, two = first.lineage.fingerprints, second.lineage.fingerprints
    found = []
    if one["train_reward"] != two["train_reward"]:
        found.append("The reward models differ: rewards are on different scales.")
    if one["prepare_data"] != two["prepare_data"]:
        found.append("The prepared data differ: test prompts and held-out rows are not the same.")
    same_prompts = first.lineage.revisions["toxicity prompts"] == second.lineage.revisions["toxicity prompts"]
    same_draw = (first.lineage.seed, first.toxicity.sft.n) == (second.lineage.seed, second.toxicity.sft.n)
    if first.toxicity.classifier != second.toxicity.classifier:
        found.append("Different classifiers scored toxicity.")
    if not same_prompts or not same_draw:
        found.append("The toxicity prompts are not the same.")
    if first.synthetic != second.synthetic:
        found.append("One of the runs is on synthetic data.")
    return found


def render_two_runs(two: TwoRuns, plots: list[Plot]) -> str:
    """The page: one file that needs nothing else."""
    return (
        make_environment()
        .get_template("run_comparison.html")
        .render(two=two, plots=plots, style=(TEMPLATES / "report.css").read_text(encoding="utf-8"))
    )


def _read_evidence(store: Path, fingerprint: str) -> Evidence | None:
    path = Store(store).folder("aggregate_results", fingerprint) / EVIDENCE
    try:
        return Evidence.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _differing(one: dict[str, str], two: dict[str, str]) -> list[Setting]:
    rows = (Setting(name, one.get(name, MISSING), two.get(name, MISSING)) for name in {**one, **two})
    return [row for row in rows if row.first != row.second]


def _names(first: Path, second: Path) -> tuple[str, str]:
    """Names of the folders; with their workspaces where these alone tell them apart."""
    one, two = first.absolute(), second.absolute()
    if one.name != two.name:
        return one.name, two.name
    return f"{one.parent.name}/{one.name}", f"{two.parent.name}/{two.name}"


Values = tuple[Mean, Mean, Difference]


def _compared(name: str, one: Values, two: Values, digits: int) -> list[Figure]:
    """A row for each model and one for their difference."""
    return [
        _figure(f"{name}, SFT", one[0].mean, two[0].mean, digits),
        _figure(f"{name}, RLHF", one[1].mean, two[1].mean, digits),
        _figure(f"{name}, RLHF minus SFT", one[2].mean, two[2].mean, digits, one[2].ci95, two[2].ci95),
    ]


def _figure(
    name: str,
    one: float,
    two: float,
    digits: int,
    *ranges: tuple[float, float],
) -> Figure:
    first_range, second_range = (
        [f"{number(low, digits)} to {number(high, digits)}" for low, high in ranges] if ranges else ["", ""]
    )
    return Figure(name, number(one, digits), first_range, number(two, digits), second_range, signed(two - one, digits))


def _people(results: Results) -> str:
    people = results.human_evaluation
    if people.status == "pending":
        return people.status
    counts = people.questions[-1].items
    return f"{counts.better}, {counts.tie}, {counts.worse}"


def _signs(results: Results) -> str:
    return ", ".join(sign.figure for sign in results.warnings) or "none"


def _seconds(results: Results) -> float:
    return sum(stage.seconds for stage in results.stages)
