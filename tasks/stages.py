"""The stages of the pipeline."""

from __future__ import annotations

from rlhf import stage_config
from rlhf.config import HUB, RunConfig
from tasks.stage import Stage


def _downloads_classifier(run: RunConfig) -> bool:
    return run.toxicity.classifier == "detoxify" and run.toxicity.checkpoint is None


prepare_model = Stage(
    "prepare_model",
    "rlhf.stages.prepare_model",
    stage_config.ModelStage,
    needs_network=lambda run: run.model.path is None and run.model.synthetic is None,
)
prepare_data = Stage(
    "prepare_data",
    "rlhf.stages.prepare_data",
    stage_config.DataStage,
    needs_gpu=False,
    needs_network=lambda run: run.data.source == HUB,
)
train_sft = Stage("train_sft", "rlhf.stages.train_sft", stage_config.SftStage, trlx_module="rlhf.stages.train_sft_trlx")
train_reward = Stage("train_reward", "rlhf.stages.train_reward", stage_config.RewardStage)
train_judge = Stage("train_judge", "rlhf.stages.train_judge", stage_config.JudgeStage)
train_ppo = Stage("train_ppo", "rlhf.stages.train_ppo", stage_config.PpoStage, trlx_module="rlhf.stages.train_ppo_trlx")
generate_responses = Stage("generate_responses", "rlhf.stages.generate_responses", stage_config.ResponsesStage)
sample_best_of_n = Stage("sample_best_of_n", "rlhf.stages.sample_best_of_n", stage_config.BestOfNStage)
judge_responses = Stage("judge_responses", "rlhf.stages.judge_responses", stage_config.JudgingStage)
ask_llm_judge = Stage("ask_llm_judge", "rlhf.stages.ask_llm_judge", stage_config.LlmJudgeStage)
score_toxicity = Stage(
    "score_toxicity",
    "rlhf.stages.score_toxicity",
    stage_config.ToxicityStage,
    needs_network=lambda run: run.toxicity.prompts == HUB or _downloads_classifier(run),
)
compare_policies = Stage(
    "compare_policies",
    "rlhf.stages.compare_policies",
    stage_config.ComparisonStage,
    needs_network=_downloads_classifier,
)
export_labeling_manifest = Stage(
    "export_labeling_manifest", "rlhf.stages.export_labeling_manifest", stage_config.LabelingStage, needs_gpu=False
)
aggregate_results = Stage(
    "aggregate_results", "rlhf.stages.aggregate_results", stage_config.ReportStage, needs_gpu=False
)
export_model = Stage("export_model", "rlhf.stages.export_model", stage_config.ExportStage, needs_gpu=False)

WITH_RESPONSES = (train_ppo.name, generate_responses.name, sample_best_of_n.name)
"""Stages whose artifacts contain responses that the independent judge scores."""
