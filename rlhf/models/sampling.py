"""Samples responses of a causal language model, independent of how prompts are batched.

B rows, b rows still active, R response tokens, V vocabulary.

Every row has its own seed: one uniform number per token, drawn before the first step, is looked up in the cumulative
distribution.  So a response depends on the prompt, the weights and the seed, not on the batch size, the order or the
other rows (up to rounding: a number within 1e-6 of a boundary may fall on either side).
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
from rlhf.models.tokenization import context_length, decode_response, decode_responses, require_fit

NO_TOKEN = -1
"""Fills the positions after a row's last token."""
PARTIAL_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""Replaces a character in decoded text if some of its bytes are missing."""


@dataclass(frozen=True)
class Response:
    """One sampled response."""

    token_ids: list[int]
    """Sampled tokens in order, at least one; includes the EOS if it was sampled."""
    text: str
    """The response without special tokens, cut before the first stop sequence, without white space at its end."""
    stopped: bool
    """Whether the response ended with an EOS or a stop sequence.  Otherwise it was cut at the maximum length."""
    hidden_states: Tensor | None = field(default=None, compare=False, repr=False)
    """Inputs of the recorded block at every token of prompt and response but the last [tokens - 1, H]."""


def require_prompts_fit(model: PreTrainedModel, prompt_ids: list[list[int]]) -> None:
    """Raises UserError if a prompt leaves no room for a response in the model's context."""
    context = context_length(model.config)
    if context is None:
        return
    remedy = f"set data.max_prompt_tokens to at most {context - 1} to drop it"
    for number, prompt in enumerate(prompt_ids, start=1):
        require_fit(f"prompt {number}", len(prompt), context, new_tokens=1, remedy=remedy)


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
    """One response per prompt, in the order of the prompts; calls `on_batch` with the number of responses so far.

    A response has at most `sampling.max_new_tokens` tokens, fewer if the model's context ends before.
    With `record_block`, a block of the model, the responses include the hidden states that enter it.

    Raises UserError if a prompt fills the context, or if the model returns NaN.
    """
    assert not model.training
    assert len(prompt_ids) == len(seeds)
    require_prompts_fit(model, prompt_ids)
    context = context_length(model.config) or sys.maxsize
    limits = [min(sampling.max_new_tokens, context - len(prompt)) for prompt in prompt_ids]
    longest_first = sorted(range(len(prompt_ids)), key=lambda row: -len(prompt_ids[row]))
    responses: dict[int, Response] = {}
    for start in range(0, len(longest_first), batch_size):
        rows = longest_first[start : start + batch_size]
        batch = _sample_batch(
            model,
            tokenizer,
            sampling,
            stop_sequences,
            prompts=[prompt_ids[row] for row in rows],
            limits=[limits[row] for row in rows],
            seeds=[seeds[row] for row in rows],
            record_block=record_block,
        )
        responses |= zip(rows, batch, strict=True)
        if on_batch is not None:
            on_batch(len(responses))
    return [responses[row] for row in range(len(prompt_ids))]


def sample_tokens(logits_BV: Tensor, uniform_B: Tensor, sampling: SamplingConfig) -> Tensor:
    """The token of each row at which the cumulative distribution passes the row's uniform number in [0, 1)."""
    logits_BV = logits_BV.float() / sampling.temperature
    vocab_size = logits_BV.shape[-1]
    if 0 < sampling.top_k < vocab_size:
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
    # below the total, so that rounding never selects a token without probability at the end of the vocabulary
    target_B = torch.minimum(uniform_B * total_B, total_B.nextafter(torch.zeros_like(total_B)))
    return torch.searchsorted(cumulative_BV, target_B[:, None], right=True)[:, 0].clamp_max(vocab_size - 1)


@torch.no_grad()
def _sample_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sampling: SamplingConfig,
    stop_sequences: tuple[str, ...],
    *,
    prompts: list[list[int]],
    limits: list[int],
    seeds: list[int],
    record_block: nn.Module | None,
) -> list[Response]:
    """Sample responses to all `prompts` in parallel, of at most `limits` tokens."""
    decoder = Decoder(model, prompts, max(limits), record_block)
    try:
        sampled = _sample_loop(decoder, tokenizer, sampling, stop_sequences, limits=limits, seeds=seeds)
    finally:
        decoder.close()
    return [
        _make_response(tokenizer, ids, decoder.hidden_states(row, len(ids)), stop_sequences)
        for row, ids in enumerate(sampled)
    ]


def _sample_loop(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    sampling: SamplingConfig,
    stop_sequences: tuple[str, ...],
    *,
    limits: list[int],
    seeds: list[int],
) -> list[list[int]]:
    """The sampled tokens of each prompt of the decoder."""
    device, rows, steps = decoder.active_b.device, len(seeds), max(limits)
    limit_B = torch.tensor(limits, device=device)
    uniform_BR = torch.stack([torch.rand(steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    uniform_BR = uniform_BR.to(device)
    token_BR = torch.full((rows, steps), NO_TOKEN, device=device)
    done_B = torch.zeros(rows, dtype=torch.bool, device=device)

    logits_bV = decoder.prefill()
    if not bool(torch.isfinite(logits_bV).any(-1).all()):
        raise UserError(
            "the model returns logits that are not finite (NaN weights); train it again with a lower learning rate"
        )
    for step in range(steps):
        active_b = decoder.active_b
        token_b = sample_tokens(logits_bV, uniform_BR[active_b, step], sampling)
        token_BR[active_b, step] = token_b.masked_fill(done_B[active_b], NO_TOKEN)
        done_B[active_b] |= (token_b == tokenizer.eos_token_id) | (limit_B[active_b] == step + 1)
        if stop_sequences:
            done_B |= _reached_stop(tokenizer, token_BR, done_B, step, stop_sequences)
        unfinished = (~done_B[active_b]).nonzero()[:, 0]
        if len(unfinished) == 0:
            break
        if decoder.should_compact(len(unfinished)):
            token_b = token_b[decoder.compact(unfinished)]
        logits_bV = decoder.decode_step(token_b, decoder.prompt_length + step)
    return [[token for token in row if token != NO_TOKEN] for row in token_BR.tolist()]


def _reached_stop(
    tokenizer: PreTrainedTokenizerBase, token_BR: Tensor, done_B: Tensor, step: int, stop_sequences: tuple[str, ...]
) -> Tensor:
    """Unfinished rows whose text reached a stop sequence with this step's token, as a mask [B].

    Decodes only the last tokens, because a token has at least one byte, and only of rows whose new token contains the
    last character of a stop sequence, or a part of a character.
    """
    tail, ends = max(len(stop.encode()) for stop in stop_sequences), {stop[-1] for stop in stop_sequences}
    recent = token_BR[:, max(0, step + 1 - tail) : step + 1].tolist()
    unfinished = (~done_B).nonzero()[:, 0].tolist()
    last = decode_responses(tokenizer, [recent[row][-1:] for row in unfinished])
    candidates = [
        row for row, text in zip(unfinished, last, strict=True) if not (ends | {PARTIAL_CHARACTER}).isdisjoint(text)
    ]
    texts = decode_responses(tokenizer, [recent[row] for row in candidates])
    reached_B = torch.zeros_like(done_B)
    for row, text in zip(candidates, texts, strict=True):
        reached_B[row] = any(stop in text for stop in stop_sequences)
    return reached_B


def _make_response(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], hidden_states: Tensor | None, stop_sequences: tuple[str, ...]
) -> Response:
    text = decode_response(tokenizer, ids)
    cuts = [index for stop in stop_sequences if (index := text.find(stop)) >= 0]
    stopped = bool(cuts) or ids[-1] == tokenizer.eos_token_id
    text = text[: min(cuts, default=len(text))].rstrip()
    return Response(token_ids=ids, text=text, stopped=stopped, hidden_states=hidden_states)
