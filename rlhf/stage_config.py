"""The parts of the settings that each stage may read."""

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
    """What prepare_model may depend on."""

    seed: int
    model: ModelConfig


class DataStage(Settings):
    """What prepare_data may depend on."""

    seed: int
    data: DataConfig


class SftStage(Settings):
    """What train_sft may depend on."""

    seed: int
    trainer: Trainer = "own"
    model: ModelConfig
    sft: SftConfig


class RewardStage(Settings):
    """What train_reward may depend on."""

    seed: int
    model: ModelConfig
    reward: RewardConfig


class PpoStage(Settings):
    """What train_ppo may depend on."""

    seed: int
    trainer: Trainer = "own"
    model: ModelConfig
    ppo: PpoConfig


class ResponsesStage(Settings):
    """What generate_responses may depend on."""

    seed: int
    model: ModelConfig
    responses: ResponsesConfig


class ToxicityStage(Settings):
    """What score_toxicity may depend on."""

    seed: int
    model: ModelConfig
    toxicity: ToxicityConfig


class ComparisonStage(Settings):
    """What compare_policies may depend on."""

    seed: int
    model: ModelConfig
    toxicity: ToxicityConfig


class LabelingStage(Settings):
    """What export_labeling_manifest may depend on."""

    seed: int


class ReportStage(Settings):
    """What aggregate_results may depend on: it shows the whole run."""

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
    """What export_model may depend on."""

    run_name: str
    seed: int
    model: ModelConfig
    data: DataConfig
    sft: SftConfig
    reward: RewardConfig
    ppo: PpoConfig
    responses: ResponsesConfig
    export: ExportConfig


def part_of(config: RunConfig, stage: type[StageT]) -> StageT:
    """The fields of `config` that `stage` declares, so that a step can read nothing outside its fingerprint."""
    return stage.model_validate({name: getattr(config, name) for name in stage.model_fields})
