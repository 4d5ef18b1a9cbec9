"""The stages of the quickstart, by their labels in results.json."""

from __future__ import annotations

STAGE_LABELS = [
    "prepare_model",
    "prepare_data",
    "train_sft",
    "train_reward",
    "generate_responses[sft]",
    "score_toxicity[sft]",
    "train_ppo",
    "generate_responses[rlhf]",
    "score_toxicity[rlhf]",
    "compare_policies",
    "export_labeling_manifest",
    "sample_best_of_n",
    "train_judge",
    "judge_responses",
    "aggregate_results",
    "export_model",
]
