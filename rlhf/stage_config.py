"""The settings of each stage.  A stage sees only these, so its fingerprint covers all that it depends on."""

from __future__ import annotations

from typing import TypeVar

from rlhf.config import (
    DataConfig,
    ExportConfig,
    ModelConfig,
    PpoConfig,
    ResponsesConfig,
    RewardConfig,
    RunConfig,
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
    model: ModelConfig
    reward: RewardConfig


class PpoStage(Settings):
    """Settings of train_ppo."""

    seed: int
    trainer: Trainer = "own"
    model: ModelConfig
    ppo: PpoConfig


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


class LabelingStage(Settings):
    """Settings of export_labeling_manifest."""

    seed: int


class ReportStage(Settings):
    """Settings of aggregate_results, which reports on the complete run."""

    run_name: str
    seed: int
    trainer: Trainer = "own"
    model: ModelConfig
    data: DataConfig
    sft: SftConfig
    reward: RewardConfig
    ppo: PpoConfig
    responses: ResponsesConfig
    toxicity: ToxicityConfig


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
    "train_ppo": PpoStage,
    "generate_responses": ResponsesStage,
    "score_toxicity": ToxicityStage,
    "compare_policies": ComparisonStage,
    "export_labeling_manifest": LabelingStage,
    "aggregate_results": ReportStage,
    "export_model": ExportStage,
}
"""Names of all stages, with their settings."""


def part_of(config: RunConfig, stage: type[StageT]) -> StageT:
    """The settings of `stage`, taken from those of the run."""
    return stage.model_validate({name: getattr(config, name) for name in stage.model_fields})
