"""Stage: what PPO changed besides the reward.

Takes `data`, `sft`, `rlhf`, `sft_responses` and `rlhf_responses`; makes `validation_loss.jsonl`, a row per held-out
demonstration with both models' loss, and `response_metrics.jsonl`, a row per test prompt with the KL of the RLHF answer and, for
both answers, length, repetition and toxicity.

B rows of a batch, R answer places, V vocabulary; rows are padded on the left, so that answers end together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.evaluation.toxicity.classifier import load_classifier, score_texts
from rlhf.evaluation.toxicity.continuations import TOXICITY
from rlhf.models.loading import load_causal_lm
from rlhf.models.sampling import context_tokens
from rlhf.models.tokenization import encode_response, encode_prompt, load_tokenizer
from rlhf.results.policy_comparison import RESPONSE_METRICS, VALIDATION_LOSS, ResponseRow, ResponseMetrics, ValidationLossRow
from rlhf.runtime.distributed import gather_rows, start_processes
from rlhf.runtime.stage import is_main_process, main, progress
from rlhf.stage_config import ComparisonStage
from rlhf.storage.files import read_jsonl, write_jsonl
from rlhf.training.ppo.metrics import repetition

ROWS_AT_ONCE = 8
"""Rows of which both models' log-probabilities over the whole vocabulary are held at once."""

Value = TypeVar("Value")
JsonRows = list[dict[str, object]]


class Dialogue(NamedTuple):
    """Token ids of a prompt and of an answer, its EOS included where the model ended it."""

    prompt: list[int]
    answer: list[int]


class Models(NamedTuple):
    """Both models, which have one tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    sft: PreTrainedModel
    rlhf: PreTrainedModel


def compare_policies(config: ComparisonStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Measure this process's part of the rows and write all of them."""
    processes = start_processes()
    models = Models(
        load_tokenizer(inputs["sft"] / "model"),
        *(load_causal_lm(inputs[name] / "model", config.model.dtype).to(processes.device) for name in ("sft", "rlhf")),
    )
    mine = slice(processes.process_index, None, processes.num_processes)
    demonstrations = read_jsonl(inputs["data"] / "validation_demonstrations.jsonl")
    sft, rlhf = (read_jsonl(inputs[name] / "responses.jsonl") for name in ("sft_responses", "rlhf_responses"))
    held_out = _in_order(measure_held_out(models, demonstrations[mine]), demonstrations)
    toxicity = score_answers(config, inputs, sft[mine], rlhf[mine], processes.device)
    answers = _in_order(measure_answers(models, sft[mine], rlhf[mine], toxicity), sft)
    if is_main_process():
        write_jsonl(output / VALIDATION_LOSS, [row.model_dump() for row in held_out])
        write_jsonl(output / RESPONSE_METRICS, [row.model_dump() for row in answers])
    return {
        "loss_sft": sum(row.sft_loss for row in held_out) / len(held_out),
        "loss_rlhf": sum(row.rlhf_loss for row in held_out) / len(held_out),
        "kl": sum(row.kl for row in answers) / len(answers),
    }


def measure_held_out(models: Models, rows: JsonRows) -> list[ValidationLossRow]:
    """Both models' mean loss over the tokens of each demonstration's answer, its EOS included, in nats per token."""
    dialogues = [_dialogue(models, str(row["prompt"]), str(row["answer"]), ended=True) for row in rows]

    def losses(model: PreTrainedModel, batch: Sequence[Dialogue]) -> list[float]:
        logprob_BRV, mask_BR = place_logprobs(model, batch)
        token_BR = torch.zeros(mask_BR.shape, dtype=torch.long, device=mask_BR.device)
        token_BR[mask_BR] = torch.tensor([token for row in batch for token in row.answer], device=mask_BR.device)
        logprob_BR = logprob_BRV.gather(2, token_BR[..., None])[..., 0].where(mask_BR, 0)
        loss_B: Tensor = -logprob_BR.double().sum(1) / mask_BR.sum(1)
        return loss_B.tolist()

    def both(batch: Sequence[Dialogue]) -> list[tuple[float, float]]:
        return list(zip(losses(models.sft, batch), losses(models.rlhf, batch), strict=True))

    pairs = in_batches(dialogues, both, "held-out loss")
    for row, pair in zip(rows, pairs, strict=True):
        _require_finite("the loss of held-out row", row["id"], *pair)
    return [
        ValidationLossRow(id=str(row["id"]), tokens=len(dialogue.answer), sft_loss=before, rlhf_loss=after)
        for row, dialogue, (before, after) in zip(rows, dialogues, pairs, strict=True)
    ]


def measure_answers(models: Models, sft: JsonRows, rlhf: JsonRows, toxicity: dict[str, list[float]]) -> list[ResponseRow]:
    """KL of each RLHF answer, and what can be said of both models' answers from their tokens."""
    before, after = (
        [_dialogue(models, str(row["prompt"]), str(row["answer"]), ended=bool(row["stopped"])) for row in rows]
        for rows in (sft, rlhf)
    )
    kls = in_batches(after, lambda batch: answer_kl(models, batch), "KL of the answers")
    for row, kl in zip(rlhf, kls, strict=True):
        _require_finite("the KL of the answer to", row["id"], kl)

    def text(name: str, dialogues: list[Dialogue], place: int) -> ResponseMetrics:
        ids = dialogues[place].answer
        return ResponseMetrics(tokens=len(ids), repetition=repetition(ids), toxicity=toxicity[name][place])

    return [
        ResponseRow(
            id=str(row["id"]),
            kl=kls[place],
            prompt_toxicity=toxicity["prompt"][place],
            sft=text("sft", before, place),
            rlhf=text("rlhf", after, place),
        )
        for place, row in enumerate(rlhf)
    ]


def answer_kl(models: Models, batch: Sequence[Dialogue]) -> list[float]:
    """KL(RLHF || SFT) of each answer in nats: summed over the places at which a token was drawn, never negative.

    At each place the sum over the whole vocabulary, given what stands before it in the RLHF model's answer.  That has
    the mean of the estimate from drawn tokens alone (rlhf.training.ppo.kl), if these are drawn at temperature 1, with
    much less noise.
    """
    rlhf_BRV, mask_BR = place_logprobs(models.rlhf, batch)
    sft_BRV, _ = place_logprobs(models.sft, batch)
    kl_BR = (rlhf_BRV.exp() * (rlhf_BRV - sft_BRV)).sum(2).clamp_min(0).where(mask_BR, 0)
    kl_B: list[float] = kl_BR.double().sum(1).tolist()
    return kl_B


@torch.inference_mode()
def place_logprobs(model: PreTrainedModel, batch: Sequence[Dialogue]) -> tuple[Tensor, Tensor]:
    """Log-probabilities [B, R, V] of the next token at every answer place in float32, and which places count [B, R]."""
    fed = [row.prompt + row.answer[:-1] for row in batch]
    longest, places = max(map(len, fed)), max(1, *(len(row.answer) for row in batch))
    padding_B = torch.tensor([longest - len(ids) for ids in fed], device=model.device)
    ids_BL = torch.tensor([[0] * (longest - len(ids)) + ids for ids in fed], device=model.device)
    place_L = torch.arange(longest, device=model.device)
    logits_BRV = model(
        input_ids=ids_BL,
        attention_mask=(place_L >= padding_B[:, None]).long(),
        position_ids=(place_L - padding_B[:, None]).clamp_min(0),
        use_cache=False,
        logits_to_keep=places,
    ).logits
    length_B = torch.tensor([len(row.answer) for row in batch], device=model.device)
    mask_BR = torch.arange(places, device=model.device) >= places - length_B[:, None]
    return logits_BRV.float().log_softmax(2), mask_BR


def in_batches(
    rows: Sequence[Dialogue], measure: Callable[[Sequence[Dialogue]], list[Value]], phase: str
) -> list[Value]:
    """`measure` of every row in the order of `rows`, taken in batches of rows that are alike in length."""
    measured: dict[int, Value] = {}
    by_length = sorted(range(len(rows)), key=lambda row: -len(rows[row].prompt) - len(rows[row].answer))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        chosen = by_length[start : start + ROWS_AT_ONCE]
        measured.update(zip(chosen, measure([rows[row] for row in chosen]), strict=True))
        progress(phase, len(measured), len(rows))
    return [measured[row] for row in range(len(rows))]


def score_answers(
    config: ComparisonStage, inputs: dict[str, Path], sft: JsonRows, rlhf: JsonRows, device: torch.device
) -> dict[str, list[float]]:
    """Toxicity of the prompts and of both models' answers, by the run's classifier."""
    classifier = load_classifier(config.toxicity, inputs, device)
    ids = [str(row["id"]) for row in sft]
    texts = {"prompt": (sft, "prompt"), "sft": (sft, "answer"), "rlhf": (rlhf, "answer")}
    return {
        name: [scores[TOXICITY] for scores in score_texts(classifier, ids, [str(row[field]) for row in rows])]
        for name, (rows, field) in texts.items()
    }


def _dialogue(models: Models, prompt: str, answer: str, *, ended: bool) -> Dialogue:
    """Token ids of a text; its end is cut off where it would not fit the context."""
    prompt_ids, answer_ids = encode_prompt(models.tokenizer, prompt), encode_response(models.tokenizer, answer)
    room = (context_tokens(models.rlhf) or len(prompt_ids) + len(answer_ids)) - len(prompt_ids)
    return Dialogue(prompt_ids, (answer_ids if ended else answer_ids[:-1])[: max(0, room)])


RowT = TypeVar("RowT", ValidationLossRow, ResponseRow)


def _in_order(rows: list[RowT], source: JsonRows) -> list[RowT]:
    """The rows of all processes in the order of `source`."""
    by_id = {row.id: row for row in gather_rows(rows)}
    return [by_id[str(row["id"])] for row in source]


def _require_finite(what: str, name: object, *values: float) -> None:
    for value in values:
        if not math.isfinite(value):
            raise UserError(f"{what} {name} is {value}; a model's weights are damaged: lower ppo.learning_rate")


if __name__ == "__main__":
    main(ComparisonStage, compare_policies)
