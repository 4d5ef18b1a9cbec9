"""Answers of a causal language model, the same whatever the batch.

B rows, b rows still being answered, P prompt tokens, T drawn tokens, L all tokens, V vocabulary.

Every row draws from its own seed: one uniform number per token, fixed before the first, looked up in the cumulative
distribution.  So an answer depends on the prompt, the weights and the seed; not on the batch size, the order or the
rows beside it (up to rounding: a draw within 1e-6 of a boundary may fall on either side).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from rlhf.config import SamplingConfig
from rlhf.encoding import decode_answer
from rlhf.errors import InputError

NOT_DRAWN = -1
"""Fills the places after a row's last token."""


@dataclass(frozen=True)
class Completion:
    """One answer."""

    token_ids: list[int]
    """Drawn tokens in order, at least one; with the EOS where it was drawn."""
    text: str
    """The answer without special tokens, cut before the first stop sequence, without white space at its end."""
    stopped: bool
    """Whether the answer ended by itself: EOS or stop sequence.  Otherwise it was cut at the longest length."""
    states: Tensor | None = field(default=None, compare=False, repr=False)
    """What the watched module took in at every token of prompt and answer but the last [tokens - 1, d]."""


def row_seed(seed: int, *names: str) -> int:
    """A 63-bit seed for the draw called `names` in a run with `seed`; the same on every machine and for ever."""
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def context_tokens(model: PreTrainedModel) -> int | None:
    """The longest sequence that the model takes, or None where its configuration names none."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def require_room(model: PreTrainedModel, prompt_ids: list[list[int]]) -> None:
    """Raise InputError where a prompt leaves no room for an answer in the model's context."""
    context = context_tokens(model)
    for number, prompt in enumerate(prompt_ids, start=1):
        if context is not None and len(prompt) >= context:
            raise InputError(
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
    watched: nn.Module | None = None,
) -> list[Completion]:
    """One answer per prompt, in the order of the prompts; `on_batch` hears the number of prompts answered so far.

    An answer has at most `sampling.max_new_tokens` tokens, fewer where the context of the model ends before.
    With a `watched` module of the model, a block, the hidden states that it takes in come with the answers.

    Raises InputError where a prompt fills the context, or where the model returns NaN.
    """
    assert not model.training
    assert len(prompt_ids) == len(seeds)
    require_room(model, prompt_ids)
    context = context_tokens(model) or sys.maxsize
    room = [min(sampling.max_new_tokens, context - len(prompt)) for prompt in prompt_ids]
    longest_first = sorted(range(len(prompt_ids)), key=lambda row: -len(prompt_ids[row]))
    completions: dict[int, Completion] = {}
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
            watched=watched,
        )
        for row, (ids, states) in zip(rows, answers, strict=True):
            completions[row] = _complete(tokenizer, ids, states, stop_sequences)
        if on_batch is not None:
            on_batch(len(completions))
    return [completions[row] for row in range(len(prompt_ids))]


def draw_tokens(logits_BV: Tensor, uniform_B: Tensor, sampling: SamplingConfig) -> Tensor:
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


class ReservedLayer(DynamicLayer):  # type: ignore[misc]  # transformers' classes count as untyped
    """Keys and values of one block in memory reserved once, where transformers would copy all of it for every token."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_options: object
    ) -> tuple[Tensor, Tensor]:
        """Append the new tokens; returns all keys and values so far, [B, heads, tokens, head size]."""
        start = self.get_seq_length()
        if start == 0:
            self.lazy_initialization(key_states, value_states)
            self.key_room, self.value_room = self._reserve(key_states), self._reserve(value_states)
        end = start + key_states.shape[-2]
        self.key_room[:, :, start:end] = key_states
        self.value_room[:, :, start:end] = value_states
        self.keys, self.values = self.key_room[:, :, :end], self.value_room[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices` only."""
        end = self.get_seq_length()
        self.key_room, self.value_room = self.key_room[indices], self.value_room[indices]
        self.keys, self.values = self.key_room[:, :, :end], self.value_room[:, :, :end]

    def _reserve(self, states: Tensor) -> Tensor:
        rows, heads, _, size = states.shape
        return states.new_empty(rows, heads, self.capacity, size)


def _reserved_cache(model: PreTrainedModel, capacity: int) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    cache.layers = [ReservedLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class Watch:
    """The hidden states [B, L, d] that a module takes in while a batch is decoded."""

    def __init__(self, module: nn.Module, rows: int, capacity: int) -> None:
        self.rows, self.capacity = rows, capacity
        self.seen = 0
        self.live_b: Tensor | slice = slice(None)
        self.states_BLd: Tensor | None = None
        self._hook = module.register_forward_pre_hook(self._take)

    def _take(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        states_bPd = inputs[0]
        if self.states_BLd is None:
            self.states_BLd = states_bPd.new_zeros(self.rows, self.capacity, states_bPd.shape[-1])
        end = self.seen + states_bPd.shape[1]
        self.states_BLd[self.live_b, self.seen : end] = states_bPd
        self.seen = end

    def end(self) -> None:
        """Stop watching."""
        self._hook.remove()

    def part(self, row: int, start: int, end: int) -> Tensor:
        """A row's states in memory of their own."""
        assert self.states_BLd is not None
        return self.states_BLd[row, start:end].clone()


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
    watched: nn.Module | None,
) -> list[tuple[list[int], Tensor | None]]:
    """The drawn tokens of each prompt and what was watched, all prompts at once, padded on the left."""
    watch = Watch(watched, len(prompts), max(map(len, prompts)) + max(limits)) if watched is not None else None
    try:
        drawn = _draw(model, tokenizer, sampling, stop_sequences, watch, prompts=prompts, limits=limits, seeds=seeds)
    finally:
        if watch is not None:
            watch.end()
    if watch is None:
        return [(ids, None) for ids in drawn]
    longest = max(map(len, prompts))
    return [
        (ids, watch.part(row, longest - len(prompt), longest + len(ids) - 1))
        for row, (prompt, ids) in enumerate(zip(prompts, drawn, strict=True))
    ]


def _draw(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sampling: SamplingConfig,
    stop_sequences: tuple[str, ...],
    watch: Watch | None,
    *,
    prompts: list[list[int]],
    limits: list[int],
    seeds: list[int],
) -> list[list[int]]:
    """The drawn tokens of each prompt."""
    device, longest, steps = model.device, max(map(len, prompts)), max(limits)
    padding = [longest - len(prompt) for prompt in prompts]
    ids_BP = torch.tensor([[0] * pad + prompt for pad, prompt in zip(padding, prompts, strict=True)], device=device)
    padding_B = torch.tensor(padding, device=device)
    mask_BL = (torch.arange(longest + steps, device=device) >= padding_B[:, None]).long()
    position_BP = (torch.arange(longest, device=device) - padding_B[:, None]).clamp_min(0)
    limit_B = torch.tensor(limits, device=device)
    uniform_BT = torch.stack([torch.rand(steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    uniform_BT = uniform_BT.to(device)
    drawn_BT = torch.full((len(prompts), steps), NOT_DRAWN, device=device)
    live_b = torch.arange(len(prompts), device=device)  # rows of the batch that the cache still holds
    done_B = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    cache = _reserved_cache(model, longest + steps)

    logits_bV = _next_logits(model, ids_BP, mask_BL[:, :longest], position_BP, cache)
    if not bool(torch.isfinite(logits_bV).any(-1).all()):
        raise InputError("the model returns no finite logits (NaN weights); train it again with a lower learning rate")
    for step in range(steps):
        token_b = draw_tokens(logits_bV, uniform_BT[live_b, step], sampling)
        drawn_BT[live_b, step] = token_b.masked_fill(done_B[live_b], NOT_DRAWN)
        done_B[live_b] |= (token_b == tokenizer.eos_token_id) | (limit_B[live_b] == step + 1)
        if stop_sequences:
            done_B |= _stopped(tokenizer, drawn_BT, done_B, step, stop_sequences)
        kept = (~done_B[live_b]).nonzero()[:, 0]
        if len(kept) == 0:
            break
        if len(kept) <= len(live_b) // 2:
            cache.batch_select_indices(kept)
            live_b, token_b = live_b[kept], token_b[kept]
            if watch is not None:
                watch.live_b = live_b
        seen = longest + step + 1
        position_b1 = seen - 1 - padding_B[live_b, None]
        logits_bV = _next_logits(model, token_b[:, None], mask_BL[live_b, :seen], position_b1, cache)
    return [[token for token in row if token != NOT_DRAWN] for row in drawn_BT.tolist()]


def _next_logits(
    model: PreTrainedModel, ids_BP: Tensor, mask_BL: Tensor, position_BP: Tensor, cache: DynamicCache
) -> Tensor:
    output = model(
        input_ids=ids_BP,
        attention_mask=mask_BL,
        position_ids=position_BP,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits_BV: Tensor = output.logits[:, -1]
    return logits_BV


def _stopped(
    tokenizer: PreTrainedTokenizerBase, drawn_BT: Tensor, done_B: Tensor, step: int, stop_sequences: tuple[str, ...]
) -> Tensor:
    """Rows whose text has just reached a stop sequence: read from the last tokens, as a token has a byte at least."""
    tail = max(len(stop.encode()) for stop in stop_sequences)
    recent = drawn_BT[:, max(0, step + 1 - tail) : step + 1].tolist()
    reached = [
        not done and any(stop in decode_answer(tokenizer, ids) for stop in stop_sequences)
        for ids, done in zip(recent, done_B.tolist(), strict=True)
    ]
    return torch.tensor(reached, device=done_B.device)


def _complete(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], states: Tensor | None, stop_sequences: tuple[str, ...]
) -> Completion:
    text = decode_answer(tokenizer, ids)
    cuts = [place for stop in stop_sequences if (place := text.find(stop)) >= 0]
    stopped = bool(cuts) or ids[-1] == tokenizer.eos_token_id
    text = text[: min(cuts, default=len(text))].rstrip()
    return Completion(token_ids=ids, text=text, stopped=stopped, states=states)
