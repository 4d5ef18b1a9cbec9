"""The settings of each stage.  A stage sees only these, so its fingerprint covers all that it depends on."""

from __future__ import annotations

from operator import attrgetter
from typing import TypeVar

from rlhf.config import (
    Control,
    DataConfig,
    EvaluationConfig,
    ExportConfig,
    JudgeConfig,
    LlmJudgeConfig,
    ModelConfig,
    PpoConfig,
    ResponsesConfig,
    RewardConfig,
    RunConfig,
    SamplingConfig,
    Settings,
    SftConfig,
    ToxicityConfig,
    Trainer,
)

StageT = TypeVar("StageT", bound="Settings")


class ModelStage(Settings):
    """Settings of prepare_model."""

    seed: int
    model: ModelConfig
    trains_reward_model: bool = True
    """Whether a reward model or the judge is trained from the model."""


class DataStage(Settings):
    """Settings of prepare_data."""

    seed: int
    data: DataConfig


class SftStage(Settings):
    """Settings of train_sft."""

    seed: int
    trainer: Trainer = "own"
    model: ModelConfig
    sft: SftConfig


class RewardStage(Settings):
    """Settings of train_reward."""

    seed: int
    control: Control = "none"
    model: ModelConfig
    reward: RewardConfig


class JudgeStage(Settings):
    """Settings of train_judge.  `model` and `reward` are those of the judge."""

    seed: int
    model: ModelConfig
    reward: RewardConfig


class PpoStage(Settings):
    """Settings of train_ppo, of one of its seeds."""

    seed: int
    trainer: Trainer = "own"
    model: ModelConfig
    ppo: PpoConfig
    stop_sequences: tuple[str, ...]


class BestOfNStage(Settings):
    """Settings of sample_best_of_n, which samples as PPO's validation does."""

    seed: int
    model: ModelConfig
    sampling: SamplingConfig
    stop_sequences: tuple[str, ...]
    batch_size: int
    best_of: int


class JudgingStage(Settings):
    """Settings of judge_responses.  `model` is that of the judge."""

    seed: int
    model: ModelConfig
    batch_size: int


class LlmJudgeStage(Settings):
    """Settings of ask_llm_judge."""

    seed: int
    model: ModelConfig
    llm: LlmJudgeConfig


class ResponsesStage(Settings):
    """Settings of generate_responses."""

    seed: int
    model: ModelConfig
    responses: ResponsesConfig


class ToxicityStage(Settings):
    """Settings of score_toxicity."""

    seed: int
    model: ModelConfig
    toxicity: ToxicityConfig


class ComparisonStage(Settings):
    """Settings of compare_policies."""

    seed: int
    model: ModelConfig
    toxicity: ToxicityConfig
    questions: str | None


class LabelingStage(Settings):
    """Settings of export_labeling_manifest."""

    seed: int


class ReportStage(Settings):
    """Settings of aggregate_results, which reports on the complete run."""

    run_name: str
    seed: int
    trainer: Trainer = "own"
    control: Control = "none"
    model: ModelConfig
    data: DataConfig
    sft: SftConfig
    reward: RewardConfig
    judge: JudgeConfig
    ppo: PpoConfig
    responses: ResponsesConfig
    toxicity: ToxicityConfig
    evaluation: EvaluationConfig


class ExportStage(Settings):
    """Settings of export_model."""

    run_name: str
    seed: int
    model: ModelConfig
    data: DataConfig
    sft: SftConfig
    reward: RewardConfig
    ppo: PpoConfig
    responses: ResponsesConfig
    export: ExportConfig


STAGES: dict[str, type[Settings]] = {
    "prepare_model": ModelStage,
    "prepare_data": DataStage,
    "train_sft": SftStage,
    "train_reward": RewardStage,
    "train_judge": JudgeStage,
    "train_ppo": PpoStage,
    "generate_responses": ResponsesStage,
    "sample_best_of_n": BestOfNStage,
    "judge_responses": JudgingStage,
    "ask_llm_judge": LlmJudgeStage,
    "score_toxicity": ToxicityStage,
    "compare_policies": ComparisonStage,
    "export_labeling_manifest": LabelingStage,
    "aggregate_results": ReportStage,
    "export_model": ExportStage,
}
"""Names of all stages, with their settings."""


SOURCES = {
    "batch_size": "responses.batch_size",
    "best_of": "evaluation.best_of",
    "llm": "judge.llm",
    "questions": "evaluation.questions",
    "sampling": "ppo.sampling",
    "stop_sequences": "responses.stop_sequences",
}
"""Single settings that stages take from a section of the run's settings."""


def part_of(config: RunConfig, stage: type[StageT]) -> StageT:
    """The settings of `stage`, taken from those of the run."""
    return stage.model_validate({name: attrgetter(SOURCES.get(name, name))(config) for name in stage.model_fields})


def variant_of_seed(seed: int, number: int) -> str:
    """Name of the model of PPO training `number` (from 0): `rlhf`, then `rlhf-43`, ... by the training's own seed."""
    return "rlhf" if number == 0 else f"rlhf-{seed + number}"
