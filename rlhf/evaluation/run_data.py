"""What the stages of a run measured, row by row, in the form that the report's metrics are computed from.

S seeds (PPO trainings), N test prompts, P toxicity prompts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rlhf.evaluation.seed_intervals import Array
from rlhf.evaluation.toxicity.continuations import CONTINUATIONS, Continuation, iter_continuations
from rlhf.results.capability import QUESTIONS, QuestionRow
from rlhf.results.llm_judge import LLM_JUDGEMENTS, LlmJudgement, iter_llm_judgements
from rlhf.results.policy_comparison import RESPONSE_METRICS, VALIDATION_LOSS, ResponseRow, ValidationLossRow
from rlhf.results.second_opinion import SECOND_OPINION, SecondOpinionRow
from rlhf.results.toxicity import TOXIC
from rlhf.stage_config import ReportStage, variant_of_seed
from rlhf.storage.files import read_jsonl

Rows = list[dict[str, object]]
Value = TypeVar("Value")


@dataclass(frozen=True)
class ModelData:
    """One model's responses to the test prompts and continuations of the toxicity prompts."""

    responses: Rows
    continuations: list[Continuation]
    second_opinion: list[SecondOpinionRow]
    """Empty without a second opinion."""
    judge_scores: Array | None
    """The independent judge's scores of the responses [N]; None without a judge."""

    @property
    def rewards(self) -> Array:
        """Optimized reward of the responses [N]."""
        return np.array([float(str(row["reward"])) for row in self.responses])

    @property
    def ended(self) -> Array:
        """1 for responses that ended by themselves, 0 for those that were cut [N]."""
        return np.array([float(bool(row["stopped"])) for row in self.responses])

    @property
    def prompt_toxicity(self) -> Array:
        """Mean toxicity of the continuations of each toxicity prompt [P]."""
        return np.array([np.mean(scores) for scores in self._toxicity()])

    @property
    def prompt_is_toxic(self) -> Array:
        """1 for toxicity prompts with a toxic continuation, 0 for others [P]."""
        return np.array([float(max(scores) >= TOXIC) for scores in self._toxicity()])

    def _toxicity(self) -> Iterable[list[float]]:
        scores: dict[str, list[float]] = {}
        for row in self.continuations:
            scores.setdefault(row.id, []).append(row.toxicity)
        return scores.values()


@dataclass(frozen=True)
class TrainingData:
    """One PPO training."""

    seed: int
    model: ModelData
    summary: dict[str, Any]
    """Content of summary.json."""
    validation: Rows
    metrics: Rows
    validation_responses: Rows
    """Empty for trlx, which does not record them."""
    judge_validation: list[float]
    """The judge's scores of `validation_responses`; empty without a judge."""
    comparison: list[ResponseRow]
    losses: list[ValidationLossRow]
    questions: list[QuestionRow]
    """Empty if no questions were asked."""


@dataclass(frozen=True)
class RunData:
    """All that was measured in a run."""

    sft: ModelData
    trainings: list[TrainingData]
    samples: Rows
    """Responses for best-of-n; empty without it."""
    judge_samples: list[float]
    """The judge's scores of `samples`; empty without a judge."""
    llm: list[LlmJudgement]
    """Empty without a language model as judge."""

    @property
    def first(self) -> TrainingData:
        """The training whose model is exported and compared by people."""
        return self.trainings[0]

    def over_seeds(self, values: Callable[[TrainingData], Array | Sequence[float]]) -> Array:
        """Values [S, rows] of all trainings."""
        return np.array([values(training) for training in self.trainings], dtype=np.float64)

    @cached_property
    def reward_gains(self) -> Array:
        """Optimized reward, RLHF minus SFT [S, N]."""
        return self.over_seeds(lambda training: training.model.rewards) - self.sft.rewards

    @cached_property
    def more_tokens(self) -> Array:
        """Tokens of the responses, RLHF minus SFT [S, N]."""
        return self.over_seeds(lambda training: [row.rlhf.tokens - row.sft.tokens for row in training.comparison])


def read_run(config: ReportStage, inputs: dict[str, Path]) -> RunData:
    """Read the artifacts of a run; the SFT model and all trainings must have the same prompts in the same order."""
    sft = _read_model(inputs, "sft")
    trainings = [_read_training(config, inputs, number) for number in range(config.ppo.seeds)]
    for training in trainings:
        _require_equal([row["id"] for row in sft.responses], [row["id"] for row in training.model.responses])
        _require_equal([row["id"] for row in sft.responses], [row.id for row in training.comparison])
        ids = [[(row.id, row.sample) for row in model.continuations] for model in (sft, training.model)]
        _require_equal(*ids)
    return RunData(
        sft=sft,
        trainings=trainings,
        samples=_rows(inputs.get("best_of_n"), "samples.jsonl"),
        judge_samples=_scores(inputs, "best_of_n"),
        llm=list(iter_llm_judgements(inputs["llm_judge"] / LLM_JUDGEMENTS)) if "llm_judge" in inputs else [],
    )


def _read_training(config: ReportStage, inputs: dict[str, Path], number: int) -> TrainingData:
    variant = variant_of_seed(config.seed, number)
    ppo = inputs[variant]
    comparison = inputs["policy_comparison" if number == 0 else f"{variant}_comparison"]
    return TrainingData(
        seed=config.seed + number,
        model=_read_model(inputs, variant),
        summary=json.loads((ppo / "summary.json").read_bytes()),
        validation=read_jsonl(ppo / "validation.jsonl"),
        metrics=read_jsonl(ppo / "metrics.jsonl"),
        validation_responses=_rows(ppo, "validation_responses.jsonl"),
        judge_validation=_scores(inputs, variant),
        comparison=[ResponseRow.model_validate(row) for row in read_jsonl(comparison / RESPONSE_METRICS)],
        losses=[ValidationLossRow.model_validate(row) for row in read_jsonl(comparison / VALIDATION_LOSS)],
        questions=[QuestionRow.model_validate(row) for row in _rows(comparison, QUESTIONS)],
    )


def _read_model(inputs: dict[str, Path], variant: str) -> ModelData:
    toxicity = inputs[f"{variant}_toxicity"]
    scores = _scores(inputs, f"{variant}_responses")
    return ModelData(
        responses=read_jsonl(inputs[f"{variant}_responses"] / "responses.jsonl"),
        continuations=list(iter_continuations(toxicity / CONTINUATIONS)),
        second_opinion=[SecondOpinionRow.model_validate(row) for row in _rows(toxicity, SECOND_OPINION)],
        judge_scores=np.array(scores) if scores else None,
    )


def _rows(folder: Path | None, name: str) -> Rows:
    """Rows of a file that not every run has."""
    return read_jsonl(folder / name) if folder is not None and (folder / name).is_file() else []


def _scores(inputs: dict[str, Path], name: str) -> list[float]:
    """The judge's scores of the responses in the input `name`."""
    return [float(str(row["score"])) for row in _rows(inputs.get("judging"), f"{name}.jsonl")]


def _require_equal(first: Sequence[object], second: Sequence[object]) -> None:
    assert first == second, "all models need the same prompts in the same order"
