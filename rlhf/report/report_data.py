"""Content of report_data.json: plots, the points of the validation curve, and texts of both models."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf.evaluation.measurements import Vote
from rlhf.evaluation.run_data import Rows, RunData
from rlhf.evaluation.toxicity.continuations import Continuation
from rlhf.report.plots import (
    Curve,
    plot_calibration,
    plot_kl,
    plot_length,
    plot_over_optimization,
    plot_reward,
    plot_seeds,
    plot_toxicity,
    plot_toxicity_difference,
)
from rlhf.results.judges import JudgeKind
from rlhf.results.schema import ContinuationPair, ReportData, ResponsePair, Results, ValidationPoint

MOST_TOXIC = 20
"""Number of toxicity prompts whose continuations are shown."""


def collect_report_data(
    run: RunData, results: Results, votes: list[dict[JudgeKind, Vote]], *, kl_target: float | None
) -> ReportData:
    """Collect the plots and texts of a run: those of its first PPO training.

    `votes` say what each judge that is no person prefers, by test prompt.
    """
    first = run.first
    return ReportData(
        training=[
            plot_reward(_curve(first.validation, "score"), _curve(first.metrics, "score"), results.reward.best_step),
            plot_kl(_curve(first.metrics, "kl"), kl_target),
            plot_length(_curve(first.metrics, "response_tokens")),
        ],
        toxicity=[
            plot_toxicity(
                [row.toxicity for row in run.sft.continuations],
                [row.toxicity for row in first.model.continuations],
                results.toxicity.measure,
            ),
            plot_toxicity_difference(
                run.sft.prompt_toxicity.tolist(),
                first.model.prompt_toxicity.tolist(),
                results.toxicity.metrics.labels[0].all.mean,
            ),
        ],
        reward_model=[plot_calibration(results.reward_model)],
        over_optimisation=[plot_over_optimization(results.over_optimisation)] if results.over_optimisation else [],
        seeds=[plot_seeds(results)] if len(results.seeds) > 1 else [],
        validation=[
            ValidationPoint(step=step, reward=reward)
            for step, reward in zip(*_curve(first.validation, "score"), strict=True)
        ],
        responses=[
            ResponsePair(
                id=row.id,
                prompt=str(before["prompt"]),
                sft=str(before["response"]),
                rlhf=str(after["response"]),
                sft_reward=float(str(before["reward"])),
                rlhf_reward=float(str(after["reward"])),
                more_tokens=row.rlhf.tokens - row.sft.tokens,
                votes=prompt_votes,
                prompt_toxicity=row.prompt_toxicity,
                sft_toxicity=row.sft.toxicity,
                rlhf_toxicity=row.rlhf.toxicity,
            )
            for before, after, row, prompt_votes in zip(
                run.sft.responses, first.model.responses, first.comparison, votes, strict=True
            )
        ],
        continuations=most_toxic(run.sft.continuations, first.model.continuations),
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


def _curve(rows: Rows, name: str) -> Curve:
    return Curve([int(str(row["step"])) for row in rows], [float(str(row[name])) for row in rows])
