"""Answers of a causal language model, the same whatever the batch.

B rows, b rows still being answered, T drawn tokens, V vocabulary.

Every row draws from its own seed: one uniform number per token, fixed before the first, looked up in the cumulative
distribution.  So an answer depends on the prompt, the weights and the seed; not on the batch size, the order or the
rows beside it (up to rounding: a draw within 1e-6 of a boundary may fall on either side).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config import SamplingConfig
from rlhf.errors import UserError
from rlhf.models.decoder import Decoder
from rlhf.models.tokenization import decode_response, decode_responses

NO_TOKEN = -1
"""Fills the places after a row's last token."""
PART = "\N{REPLACEMENT CHARACTER}"
"""Stands in a text for a character of which some bytes are missing."""


@dataclass(frozen=True)
class Response:
    """One answer."""

    token_ids: list[int]
    """Drawn tokens in order, at least one; with the EOS where it was drawn."""
    text: str
    """The answer without special tokens, cut before the first stop sequence, without white space at its end."""
    stopped: bool
    """Whether the answer ended by itself: EOS or stop sequence.  Otherwise it was cut at the longest length."""
    states: Tensor | None = field(default=None, compare=False, repr=False)
    """What the record_block module took in at every token of prompt and answer but the last [tokens - 1, d]."""


def context_tokens(model: PreTrainedModel) -> int | None:
    """The longest sequence that the model takes, or None where its configuration names none."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def require_room(model: PreTrainedModel, prompt_ids: list[list[int]]) -> None:
    """Raise UserError where a prompt leaves no room for an answer in the model's context."""
    context = context_tokens(model)
    for number, prompt in enumerate(prompt_ids, start=1):
        if context is not None and len(prompt) >= context:
            raise UserError(
                f"prompt {number} has {len(prompt)} tokens, which leaves no room for an answer in the model's context "
                f"of {context}; set data.max_prompt_tokens to at most {context - 1}, and it is left out"
            )


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: list[list[int]],
    sampling: SamplingConfig,
    seeds: list[int],
    *,
    batch_size: int,
    stop_sequences: tuple[str, ...] = (),
    on_batch: Callable[[int], None] | None = None,
    record_block: nn.Module | None = None,
) -> list[Response]:
    """One answer per prompt, in the order of the prompts; `on_batch` hears the number of prompts answered so far.

    An answer has at most `sampling.max_new_tokens` tokens, fewer where the context of the model ends before.
    With a `record_block` module of the model, a block, the hidden states that it takes in come with the answers.

    Raises UserError where a prompt fills the context, or where the model returns NaN.
    """
    assert not model.training
    assert len(prompt_ids) == len(seeds)
    require_room(model, prompt_ids)
    context = context_tokens(model) or sys.maxsize
    room = [min(sampling.max_new_tokens, context - len(prompt)) for prompt in prompt_ids]
    longest_first = sorted(range(len(prompt_ids)), key=lambda row: -len(prompt_ids[row]))
    completions: dict[int, Response] = {}
    for start in range(0, len(longest_first), batch_size):
        rows = longest_first[start : start + batch_size]
        answers = _decode(
            model,
            tokenizer,
            sampling,
            stop_sequences,
            prompts=[prompt_ids[row] for row in rows],
            limits=[room[row] for row in rows],
            seeds=[seeds[row] for row in rows],
            record_block=record_block,
        )
        for row, (ids, states) in zip(rows, answers, strict=True):
            completions[row] = _complete(tokenizer, ids, states, stop_sequences)
        if on_batch is not None:
            on_batch(len(completions))
    return [completions[row] for row in range(len(prompt_ids))]


def sample_tokens(logits_BV: Tensor, uniform_B: Tensor, sampling: SamplingConfig) -> Tensor:
    """The token of each row at which the cumulative distribution passes the row's uniform number in [0, 1)."""
    logits_BV = logits_BV.float() / sampling.temperature
    vocabulary = logits_BV.shape[-1]
    if 0 < sampling.top_k < vocabulary:
        least_B1 = logits_BV.topk(sampling.top_k).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    if sampling.top_p < 1:
        sorted_BV, order_BV = logits_BV.sort(descending=True, stable=True)
        probability_BV = sorted_BV.softmax(-1)
        above_BV = probability_BV.cumsum(-1) - probability_BV
        dropped_BV = torch.zeros_like(logits_BV, dtype=torch.bool).scatter(1, order_BV, above_BV >= sampling.top_p)
        logits_BV = logits_BV.masked_fill(dropped_BV, -torch.inf)
    cumulative_BV = logits_BV.softmax(-1).cumsum(-1)
    total_B = cumulative_BV[:, -1]
    # below the total, so that rounding never finds a token without probability at the end of the vocabulary
    target_B = torch.minimum(uniform_B * total_B, total_B.nextafter(torch.zeros_like(total_B)))
    return torch.searchsorted(cumulative_BV, target_B[:, None], right=True)[:, 0].clamp_max(vocabulary - 1)


@torch.no_grad()
def _decode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sampling: SamplingConfig,
    stop_sequences: tuple[str, ...],
    *,
    prompts: list[list[int]],
    limits: list[int],
    seeds: list[int],
    record_block: nn.Module | None,
) -> list[tuple[list[int], Tensor | None]]:
    """The drawn tokens of each prompt and what was record_block, all prompts at once."""
    decoder = Decoder(model, prompts, max(limits), record_block)
    try:
        drawn = _draw(decoder, tokenizer, sampling, stop_sequences, limits=limits, seeds=seeds)
    finally:
        decoder.close()
    return [(ids, decoder.states(row, len(ids))) for row, ids in enumerate(drawn)]


def _draw(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    sampling: SamplingConfig,
    stop_sequences: tuple[str, ...],
    *,
    limits: list[int],
    seeds: list[int],
) -> list[list[int]]:
    """The drawn tokens of each prompt."""
    device, rows, steps = decoder.live_b.device, len(seeds), max(limits)
    limit_B = torch.tensor(limits, device=device)
    uniform_BT = torch.stack([torch.rand(steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    uniform_BT = uniform_BT.to(device)
    drawn_BT = torch.full((rows, steps), NO_TOKEN, device=device)
    done_B = torch.zeros(rows, dtype=torch.bool, device=device)

    logits_bV = decoder.read_prompts()
    if not bool(torch.isfinite(logits_bV).any(-1).all()):
        raise UserError("the model returns no finite logits (NaN weights); train it again with a lower learning rate")
    for step in range(steps):
        live_b = decoder.live_b
        token_b = sample_tokens(logits_bV, uniform_BT[live_b, step], sampling)
        drawn_BT[live_b, step] = token_b.masked_fill(done_B[live_b], NO_TOKEN)
        done_B[live_b] |= (token_b == tokenizer.eos_token_id) | (limit_B[live_b] == step + 1)
        if stop_sequences:
            done_B |= _stopped(tokenizer, drawn_BT, done_B, step, stop_sequences)
        kept = (~done_B[live_b]).nonzero()[:, 0]
        if len(kept) == 0:
            break
        if decoder.is_worth_leaving(len(kept)):
            token_b = token_b[decoder.keep(kept)]
        logits_bV = decoder.read(token_b, decoder.prompt_places + step)
    return [[token for token in row if token != NO_TOKEN] for row in drawn_BT.tolist()]


def _stopped(
    tokenizer: PreTrainedTokenizerBase, drawn_BT: Tensor, done_B: Tensor, step: int, stop_sequences: tuple[str, ...]
) -> Tensor:
    """Rows whose text has just reached a stop sequence: read from the last tokens, as a token has a byte at least.

    Few tokens have the last character of one, or, where that has several bytes, a part of it.
    """
    tail, ends = max(len(stop.encode()) for stop in stop_sequences), {stop[-1] for stop in stop_sequences}
    recent = drawn_BT[:, max(0, step + 1 - tail) : step + 1].tolist()
    undone = (~done_B).nonzero()[:, 0].tolist()
    last = decode_responses(tokenizer, [recent[row][-1:] for row in undone])
    candidates = [row for row, text in zip(undone, last, strict=True) if not (ends | {PART}).isdisjoint(text)]
    texts = decode_responses(tokenizer, [recent[row] for row in candidates])
    reached = torch.zeros_like(done_B)
    for row, text in zip(candidates, texts, strict=True):
        reached[row] = any(stop in text for stop in stop_sequences)
    return reached


def _complete(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], states: Tensor | None, stop_sequences: tuple[str, ...]
) -> Response:
    text = decode_response(tokenizer, ids)
    cuts = [place for stop in stop_sequences if (place := text.find(stop)) >= 0]
    stopped = bool(cuts) or ids[-1] == tokenizer.eos_token_id
    text = text[: min(cuts, default=len(text))].rstrip()
    return Response(token_ids=ids, text=text, stopped=stopped, states=states)
