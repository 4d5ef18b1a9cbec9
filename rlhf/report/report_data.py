"""Content of report_data.json: plots, the points of the validation curve, and texts of both models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from rlhf.evaluation.toxicity.continuations import Continuation
from rlhf.report.plots import (
    Curve,
    plot_calibration,
    plot_kl,
    plot_length,
    plot_reward,
    plot_toxicity,
    plot_toxicity_difference,
)
from rlhf.results.policy_comparison import ResponseRow
from rlhf.results.schema import ContinuationPair, ReportData, ResponsePair, Results, ValidationPoint
from rlhf.stage_config import ReportStage
from rlhf.storage.files import read_jsonl

MOST_TOXIC = 20
"""Number of toxicity prompts whose continuations are shown."""

Rows = list[dict[str, object]]


def collect_report_data(
    config: ReportStage,
    ppo: Path,
    results: Results,
    *,
    responses: list[Rows],
    rows: list[ResponseRow],
    continuations: list[list[Continuation]],
) -> ReportData:
    """Collect the plots and texts of a run.  `responses` and `continuations` hold the SFT model's, then the RLHF's."""
    validation, steps = read_jsonl(ppo / "validation.jsonl"), read_jsonl(ppo / "metrics.jsonl")
    sft, rlhf = continuations
    return ReportData(
        training=[
            plot_reward(_curve(validation, "score"), _curve(steps, "score"), results.reward.best_step),
            plot_kl(_curve(steps, "kl"), config.ppo.kl_target),
            plot_length(_curve(steps, "response_tokens")),
        ],
        toxicity=[
            plot_toxicity([row.toxicity for row in sft], [row.toxicity for row in rlhf]),
            plot_toxicity_difference(_prompt_means(sft), _prompt_means(rlhf), results.toxicity.difference),
        ],
        reward_model=[plot_calibration(results.reward_model)],
        validation=[
            ValidationPoint(step=step, reward=reward) for step, reward in zip(*_curve(validation, "score"), strict=True)
        ],
        responses=[
            ResponsePair(
                prompt=str(before["prompt"]),
                sft=str(before["response"]),
                rlhf=str(after["response"]),
                sft_reward=float(str(before["reward"])),
                rlhf_reward=float(str(after["reward"])),
                prompt_toxicity=row.prompt_toxicity,
                sft_toxicity=row.sft.toxicity,
                rlhf_toxicity=row.rlhf.toxicity,
            )
            for before, after, row in zip(*responses, rows, strict=True)
        ],
        continuations=most_toxic(sft, rlhf),
    )


def most_toxic(sft: Sequence[Continuation], rlhf: Sequence[Continuation]) -> list[ContinuationPair]:
    """The pairs of continuations with the highest score of either model, at most one per prompt."""
    pairs: dict[str, ContinuationPair] = {}
    for before, after in sorted(
        zip(sft, rlhf, strict=True), key=lambda pair: max(pair[0].toxicity, pair[1].toxicity), reverse=True
    ):
        pairs.setdefault(
            before.id,
            ContinuationPair(
                prompt=before.prompt,
                prompt_toxicity=before.prompt_toxicity,
                sft=before.continuation,
                rlhf=after.continuation,
                sft_toxicity=before.toxicity,
                rlhf_toxicity=after.toxicity,
            ),
        )
    return list(pairs.values())[:MOST_TOXIC]


def _prompt_means(rows: Sequence[Continuation]) -> list[float]:
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row.id, []).append(row.toxicity)
    return [fmean(prompt_scores) for prompt_scores in scores.values()]


def _curve(rows: Rows, name: str) -> Curve:
    return Curve([int(str(row["step"])) for row in rows], [float(str(row[name])) for row in rows])
