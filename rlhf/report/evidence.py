"""What the report shows beside the figures: plots, the numbers of the reward curve, and texts of the models."""

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
from rlhf.results.policies import AnswerRow
from rlhf.results.schema import AnswerPair, ContinuationPair, Evidence, Measurement, Results
from rlhf.stage_config import ReportStage
from rlhf.storage.files import read_jsonl

MOST_TOXIC = 20
"""Toxicity prompts whose continuations are shown."""

Rows = list[dict[str, object]]


def collect_evidence(
    config: ReportStage,
    ppo: Path,
    results: Results,
    *,
    responses: list[Rows],
    answers: list[AnswerRow],
    continuations: list[list[Continuation]],
) -> Evidence:
    """The evidence of a run; pairs of lists are those of the SFT and of the RLHF model."""
    validation, steps = read_jsonl(ppo / "validation.jsonl"), read_jsonl(ppo / "metrics.jsonl")
    sft, rlhf = continuations
    return Evidence(
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
            Measurement(step=step, reward=reward) for step, reward in zip(*_curve(validation, "score"), strict=True)
        ],
        answers=[
            AnswerPair(
                prompt=str(before["prompt"]),
                sft=str(before["answer"]),
                rlhf=str(after["answer"]),
                sft_reward=float(str(before["reward"])),
                rlhf_reward=float(str(after["reward"])),
                prompt_toxicity=row.prompt_toxicity,
                sft_toxicity=row.sft.toxicity,
                rlhf_toxicity=row.rlhf.toxicity,
            )
            for before, after, row in zip(*responses, answers, strict=True)
        ],
        continuations=most_toxic(sft, rlhf),
    )


def most_toxic(sft: Sequence[Continuation], rlhf: Sequence[Continuation]) -> list[ContinuationPair]:
    """The pairs of continuations, one a prompt, in which either model scores highest."""
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
    return [fmean(of_prompt) for of_prompt in scores.values()]


def _curve(rows: Rows, name: str) -> Curve:
    return Curve([int(str(row["step"])) for row in rows], [float(str(row[name])) for row in rows])
