"""Measurements of the SFT model and the RLHF model on the same rows: validation loss, KL, length, repetition, toxicity.

B rows of a batch, L tokens of the longest input, R tokens of the longest response, V vocabulary.  Rows are padded on
the left, so that all responses end at the same position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.data.text import repetition
from rlhf.errors import UserError
from rlhf.evaluation.toxicity.classifier import Classifier, score_texts
from rlhf.models.limits import COMPARED_ROWS
from rlhf.models.tokenization import context_length, encode_prompt, encode_response
from rlhf.results.policy_comparison import ResponseMetrics, ResponseRow, ValidationLossRow
from rlhf.runtime.stage import progress

Value = TypeVar("Value")
JsonRows = list[dict[str, object]]


class Dialogue(NamedTuple):
    """Token ids of a prompt and of a response, including its EOS if the response ended."""

    prompt: list[int]
    response: list[int]


class ModelPair(NamedTuple):
    """Both models and their common tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    sft: PreTrainedModel
    rlhf: PreTrainedModel


def validation_loss_rows(models: ModelPair, rows: JsonRows) -> list[ValidationLossRow]:
    """Mean loss of both models over the tokens of each demonstration's response, including its EOS, in nats."""
    dialogues = [_dialogue(models, str(row["prompt"]), str(row["response"]), ended=True) for row in rows]

    def losses(model: PreTrainedModel, batch: Sequence[Dialogue]) -> list[float]:
        sums = response_logprob_sums(model, batch)
        return [-total / len(dialogue.response) for total, dialogue in zip(sums, batch, strict=True)]

    def both(batch: Sequence[Dialogue]) -> list[tuple[float, float]]:
        return list(zip(losses(models.sft, batch), losses(models.rlhf, batch), strict=True))

    pairs = map_in_batches(dialogues, both, "validation loss")
    for row, pair in zip(rows, pairs, strict=True):
        require_finite("the loss of validation row", row["id"], *pair)
    return [
        ValidationLossRow(id=str(row["id"]), tokens=len(dialogue.response), sft_loss=before, rlhf_loss=after)
        for row, dialogue, (before, after) in zip(rows, dialogues, pairs, strict=True)
    ]


def response_rows(
    models: ModelPair, sft: JsonRows, rlhf: JsonRows, toxicity: dict[str, list[float]]
) -> list[ResponseRow]:
    """KL of each RLHF response, and length, repetition and toxicity of both models' responses."""
    before, after = (
        [_dialogue(models, str(row["prompt"]), str(row["response"]), ended=bool(row["stopped"])) for row in rows]
        for rows in (sft, rlhf)
    )
    kls = map_in_batches(after, lambda batch: response_kl(models, batch), "KL of the responses")
    for row, kl in zip(rlhf, kls, strict=True):
        require_finite("the KL of the response to", row["id"], kl)

    def metrics(name: str, dialogues: list[Dialogue], index: int) -> ResponseMetrics:
        ids = dialogues[index].response
        return ResponseMetrics(tokens=len(ids), repetition=repetition(ids), toxicity=toxicity[name][index])

    return [
        ResponseRow(
            id=str(row["id"]),
            kl=kls[index],
            prompt_toxicity=toxicity["prompt"][index],
            sft=metrics("sft", before, index),
            rlhf=metrics("rlhf", after, index),
        )
        for index, row in enumerate(rlhf)
    ]


def response_kl(models: ModelPair, batch: Sequence[Dialogue]) -> list[float]:
    """KL(RLHF || SFT) of each response in nats, summed over its tokens; never negative.

    Sums over the complete vocabulary at every position, given the tokens before it.  For responses sampled at
    temperature 1 this has the same mean as the estimate from sampled tokens (rlhf.training.ppo.kl) and much less noise.
    """
    rlhf_BRV, mask_BR = response_logprobs(models.rlhf, batch)
    sft_BRV, _ = response_logprobs(models.sft, batch)
    kl_BR = (rlhf_BRV.exp() * (rlhf_BRV - sft_BRV)).sum(2).clamp_min(0).where(mask_BR, 0)
    kl_B: list[float] = kl_BR.double().sum(1).tolist()
    return kl_B


def response_logprob_sums(model: PreTrainedModel, batch: Sequence[Dialogue]) -> list[float]:
    """Log-probability of each response given its prompt: the sum over its tokens, in nats."""
    logprob_BRV, mask_BR = response_logprobs(model, batch)
    token_BR = torch.zeros(mask_BR.shape, dtype=torch.long, device=mask_BR.device)
    token_BR[mask_BR] = torch.tensor([token for row in batch for token in row.response], device=mask_BR.device)
    logprob_BR = logprob_BRV.gather(2, token_BR[..., None])[..., 0].where(mask_BR, 0)
    logprob_B: list[float] = logprob_BR.double().sum(1).tolist()
    return logprob_B


@torch.inference_mode()
def response_logprobs(model: PreTrainedModel, batch: Sequence[Dialogue]) -> tuple[Tensor, Tensor]:
    """Log-probabilities [B, R, V] of each response token in float32, and the mask [B, R] of positions with a token."""
    inputs = [row.prompt + row.response[:-1] for row in batch]
    longest, longest_response = max(map(len, inputs)), max(1, *(len(row.response) for row in batch))
    padding_B = torch.tensor([longest - len(ids) for ids in inputs], device=model.device)
    ids_BL = torch.tensor([[0] * (longest - len(ids)) + ids for ids in inputs], device=model.device)
    position_L = torch.arange(longest, device=model.device)
    logits_BRV = model(
        input_ids=ids_BL,
        attention_mask=(position_L >= padding_B[:, None]).long(),
        position_ids=(position_L - padding_B[:, None]).clamp_min(0),
        use_cache=False,
        logits_to_keep=longest_response,
    ).logits
    length_B = torch.tensor([len(row.response) for row in batch], device=model.device)
    mask_BR = torch.arange(longest_response, device=model.device) >= longest_response - length_B[:, None]
    return logits_BRV.float().log_softmax(2), mask_BR


def map_in_batches(
    rows: Sequence[Dialogue], measure: Callable[[Sequence[Dialogue]], list[Value]], phase: str
) -> list[Value]:
    """Apply `measure` to batches of rows of similar length; returns the values in the order of `rows`."""
    measured: dict[int, Value] = {}
    by_length = sorted(range(len(rows)), key=lambda row: -len(rows[row].prompt) - len(rows[row].response))
    for start in range(0, len(rows), COMPARED_ROWS):
        chosen = by_length[start : start + COMPARED_ROWS]
        measured.update(zip(chosen, measure([rows[row] for row in chosen]), strict=True))
        progress(phase, len(measured), len(rows))
    return [measured[row] for row in range(len(rows))]


def toxicity_scores(classifier: Classifier, sft: JsonRows, rlhf: JsonRows) -> dict[str, list[float]]:
    """The classifier's main score of the prompts (`prompt`) and of both models' responses (`sft`, `rlhf`)."""
    ids = [str(row["id"]) for row in sft]
    texts = {"prompt": (sft, "prompt"), "sft": (sft, "response"), "rlhf": (rlhf, "response")}
    return {
        name: [
            scores[classifier.main_label] for scores in score_texts(classifier, ids, [str(row[field]) for row in rows])
        ]
        for name, (rows, field) in texts.items()
    }


def require_finite(what: str, name: object, *values: float) -> None:
    """Raise UserError, in which `what` and `name` say what they measure, if a value is infinite or not a number."""
    for value in values:
        if not math.isfinite(value):
            raise UserError(f"{what} {name} is {value}: the weights of a model are not finite; lower ppo.learning_rate")


def _dialogue(models: ModelPair, prompt: str, response: str, *, ended: bool) -> Dialogue:
    """Token ids of a dialogue.  The response is truncated to the models' context."""
    prompt_ids, response_ids = encode_prompt(models.tokenizer, prompt), encode_response(models.tokenizer, response)
    room = (context_length(models.rlhf.config) or len(prompt_ids) + len(response_ids)) - len(prompt_ids)
    return Dialogue(prompt_ids, (response_ids if ended else response_ids[:-1])[: max(0, room)])
