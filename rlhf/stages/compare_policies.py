"""Stage: measure side effects of PPO by comparing the RLHF model with the SFT model.

Takes `data`, `sft`, `rlhf`, `sft_responses` and `rlhf_responses`.  Writes validation_loss.jsonl, with both models' loss
per validation demonstration, and response_metrics.jsonl, with KL, length, repetition and toxicity per test prompt.
If the settings name multiple-choice questions, also writes questions.jsonl, with both models' choices; `questions` is
the user's file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from rlhf.data.questions import read_questions
from rlhf.evaluation.multiple_choice import question_rows
from rlhf.evaluation.policy_comparison import ModelPair, response_rows, toxicity_scores, validation_loss_rows
from rlhf.evaluation.toxicity.classifier import load_classifier
from rlhf.models.loading import load_causal_lm
from rlhf.models.tokenization import load_tokenizer
from rlhf.results.capability import QUESTIONS, QuestionRow
from rlhf.results.policy_comparison import RESPONSE_METRICS, VALIDATION_LOSS, ResponseRow, ValidationLossRow
from rlhf.runtime.distributed import all_gather_rows, init_distributed
from rlhf.runtime.stage import is_main_process, main
from rlhf.stage_config import ComparisonStage
from rlhf.storage.files import read_jsonl, write_jsonl

RowT = TypeVar("RowT", ValidationLossRow, ResponseRow, QuestionRow)


def compare_policies(config: ComparisonStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Measure this rank's share of the rows and write the rows of all ranks."""
    processes = init_distributed()
    questions = (
        [] if config.questions is None else read_questions(config.questions, config.seed, inputs.get("questions"))
    )
    models = ModelPair(
        load_tokenizer(inputs["sft"] / "model"),
        *(load_causal_lm(inputs[name] / "model", config.model.dtype).to(processes.device) for name in ("sft", "rlhf")),
    )
    shard = slice(processes.process_index, None, processes.num_processes)
    demonstrations = read_jsonl(inputs["data"] / "validation_demonstrations.jsonl")
    sft, rlhf = (read_jsonl(inputs[name] / "responses.jsonl") for name in ("sft_responses", "rlhf_responses"))

    losses = _gather(validation_loss_rows(models, demonstrations[shard]), [row["id"] for row in demonstrations])
    toxicity = toxicity_scores(load_classifier(config.toxicity, inputs, processes.device), sft[shard], rlhf[shard])
    responses = _gather(response_rows(models, sft[shard], rlhf[shard], toxicity), [row["id"] for row in sft])
    answers = _gather(question_rows(models, questions[shard]), [question.id for question in questions])
    if is_main_process():
        write_jsonl(output / VALIDATION_LOSS, [row.model_dump() for row in losses])
        write_jsonl(output / RESPONSE_METRICS, [row.model_dump() for row in responses])
        if answers:
            write_jsonl(output / QUESTIONS, [row.model_dump() for row in answers])
    metrics = {
        "loss_sft": fmean(row.sft_loss for row in losses),
        "loss_rlhf": fmean(row.rlhf_loss for row in losses),
        "kl": fmean(row.kl for row in responses),
    }
    if answers:
        metrics["accuracy_sft"] = fmean(row.sft == row.correct for row in answers)
        metrics["accuracy_rlhf"] = fmean(row.rlhf == row.correct for row in answers)
    return metrics


def _gather(rows: list[RowT], ids: Sequence[object]) -> list[RowT]:
    """The rows of all ranks, in the order of `ids`."""
    by_id = {row.id: row for row in all_gather_rows(rows)}
    return [by_id[str(name)] for name in ids]


if __name__ == "__main__":
    main(ComparisonStage, compare_policies)
