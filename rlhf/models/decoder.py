"""A causal language model that reads one token of each row at a time, without reading what stood before it again.

B rows of a batch, b rows that are still read, P prompt tokens, L places, V vocabulary, d hidden size.

Keys and values lie in memory reserved once, and a step is the same kernels on the same addresses as the one before:
which place is written and which are seen is read from tensors.  So a GPU can play a step back as a CUDA graph, without
Python or the launch of single kernels; on a CPU the very same step runs as it is written.  The parameters are the
model's own: what is trained is what draws.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from rlhf.models.cuda_graph import as_cuda_graph

FIXED_SHAPES = ("gpt2", "gpt_neox", "gptj", "llama", "mistral", "qwen2", "qwen3")
"""Model types that take a ready mask, so that a step's shapes need not grow with every token."""
CPU_WINDOW, GPU_WINDOW = 16, 256
"""Places by which the part of the cache grows that a step sees.  On a GPU each growth is a new graph."""


class Cursor:
    """Where all blocks put the token that is read, and how many places they see."""

    def __init__(self, device: torch.device) -> None:
        self.place_1 = torch.zeros(1, dtype=torch.long, device=device)
        self.window = 0


class ReservedLayer(DynamicLayer):  # type: ignore[misc]  # transformers' classes count as untyped
    """Keys and values of one block in memory reserved once, where transformers would copy all of it for every token."""

    def __init__(self, capacity: int, cursor: Cursor) -> None:
        super().__init__()
        self.capacity, self.cursor = capacity, cursor

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_options: object
    ) -> tuple[Tensor, Tensor]:
        """Take in the prompts or the next token; returns the keys and values to see [B, heads, places, head size]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.key_room, self.value_room = self._reserve(key_states), self._reserve(value_states)
            end = key_states.shape[2]
            self.key_room[:, :, :end], self.value_room[:, :, :end] = key_states, value_states
        else:
            end = self.cursor.window
            self.key_room.index_copy_(2, self.cursor.place_1, key_states)
            self.value_room.index_copy_(2, self.cursor.place_1, value_states)
        self.keys, self.values = self.key_room[:, :, :end], self.value_room[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices` only: each stays where it is or takes the place of one that leaves."""
        count, end = len(indices), self.get_seq_length()
        places = (indices != torch.arange(count, device=indices.device)).nonzero()[:, 0]
        for room in (self.key_room, self.value_room):
            room[places, :, :end] = room[indices[places], :, :end]
        self.key_room, self.value_room = self.key_room[:count], self.value_room[:count]
        self.keys, self.values = self.key_room[:, :, :end], self.value_room[:, :, :end]

    def _reserve(self, states: Tensor) -> Tensor:
        rows, heads, _, size = states.shape
        return states.new_zeros(rows, heads, self.capacity, size)  # a hidden place counts 0 times its value: no NaN


class Watch:
    """The hidden states [B, L, d] that a module takes in."""

    def __init__(self, module: nn.Module, rows: int, capacity: int, cursor: Cursor) -> None:
        self.rows, self.capacity, self.cursor = rows, capacity, cursor
        self.live_b: Tensor | None = None
        self.states_BLd: Tensor | None = None
        self.hook = module.register_forward_pre_hook(self._take)

    def _take(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        states = inputs[0]
        if self.states_BLd is None:
            self.states_BLd = states.new_zeros(self.rows, self.capacity, states.shape[-1])
            self.states_BLd[:, : states.shape[1]] = states
        else:
            assert self.live_b is not None
            self.states_BLd.index_put_((self.live_b, self.cursor.place_1.expand_as(self.live_b)), states[:, 0])


class Decoder:
    """Prompts, padded on the left, and the tokens read behind them."""

    def __init__(
        self, model: PreTrainedModel, prompts: list[list[int]], longest_answer: int, record_block: nn.Module | None
    ) -> None:
        """With a `record_block` module of the model, a block, the hidden states that it takes in are kept."""
        device, rows = model.device, len(prompts)
        self.model = model
        self.prompt_places = max(map(len, prompts))
        capacity = self.prompt_places + longest_answer
        self.padding = [self.prompt_places - len(prompt) for prompt in prompts]
        self.padding_b1 = torch.tensor(self.padding, device=device)[:, None]
        self.ids_BP = torch.tensor(
            [[0] * pad + prompt for pad, prompt in zip(self.padding, prompts, strict=True)], device=device
        )
        self.live_b = torch.arange(rows, device=device)
        """The rows that are still read."""
        self.place_L = torch.arange(capacity, device=device)
        self.cursor = Cursor(device)
        self.cache = DynamicCache(config=model.config)
        plain = all(type(layer) is DynamicLayer for layer in self.cache.layers)
        self.fixed_shapes = plain and model.config.model_type in FIXED_SHAPES
        self.cache.layers = [
            ReservedLayer(capacity, self.cursor) if type(layer) is DynamicLayer else layer
            for layer in self.cache.layers
        ]
        self.watch = Watch(record_block, rows, capacity, self.cursor) if record_block is not None else None
        self.token_b1 = self.ids_BP[:, -1:]
        self._step: Callable[[], Tensor] | None = None

    def close(self) -> None:
        """Stop watching, and let go of the keys and values at once: the step, a method of this, refers to them."""
        if self.watch is not None:
            self.watch.hook.remove()
        self._step = None

    def read_prompts(self) -> Tensor:
        """Logits [B, V] of each first token."""
        place_P = self.place_L[: self.prompt_places]
        logits_BV = self._forward(
            self.ids_BP, (place_P >= self.padding_b1).long(), (place_P - self.padding_b1).clamp_min(0)
        )
        self.cursor.place_1.fill_(self.prompt_places - 1)
        return logits_BV

    def is_worth_leaving(self, rows: int) -> bool:
        """Whether to go on with so many rows only.

        On a CPU a step reads the keys and values of every row, and leaving one out copies those of one; on a GPU other
        shapes are another graph.
        """
        now = len(self.live_b)
        return rows <= now // 2 if self.model.device.type == "cuda" else rows < now

    def keep(self, rows_b: Tensor) -> Tensor:
        """Go on with some of the rows, by their places, in order, among those that are still read.

        Returns them in their new order: the last ones take the places of those that leave.
        """
        count = len(rows_b)
        order_b = torch.arange(count, device=rows_b.device)
        left = torch.ones_like(order_b, dtype=torch.bool)
        left[rows_b[rows_b < count]] = False
        order_b[left] = rows_b[rows_b >= count]
        self.cache.batch_select_indices(order_b)
        self.live_b, self.padding_b1 = self.live_b[order_b], self.padding_b1[order_b]
        self._step = None
        return order_b

    def read(self, token_b: Tensor, place: int) -> Tensor:
        """Logits [b, V] behind the next token of each row, which stands at `place`; they hold until the next call."""
        window = self._window(place + 1)
        if self._step is None or window != self.cursor.window:
            self.cursor.window, self.token_b1 = window, token_b[:, None].clone()
            if self.watch is not None:
                self.watch.live_b = self.live_b
            self.cursor.place_1.fill_(place)
            self._step = as_cuda_graph(self._read_token, token_b.device) if self.fixed_shapes else self._read_token
        self.token_b1.copy_(token_b[:, None])
        self.cursor.place_1.fill_(place)
        return self._step()

    def states(self, row: int, answer_tokens: int) -> Tensor | None:
        """What was record_block of a row [tokens - 1, d], in memory of its own: all its tokens but the last."""
        if self.watch is None:
            return None
        assert self.watch.states_BLd is not None
        return self.watch.states_BLd[row, self.padding[row] : self.prompt_places + answer_tokens - 1].clone()

    def _read_token(self) -> Tensor:
        """One step: reads and writes the same memory each time."""
        place_1, place_W = self.cursor.place_1, self.place_L[: self.cursor.window]
        seen_bW = (place_W >= self.padding_b1) & (place_W <= place_1)
        mask = seen_bW.long()
        if self.fixed_shapes:
            mask = torch.zeros_like(seen_bW, dtype=self.model.dtype).masked_fill_(~seen_bW, -torch.inf)[:, None, None]
        return self._forward(self.token_b1, mask, place_1 - self.padding_b1)

    def _window(self, seen: int) -> int:
        if not self.fixed_shapes:
            return seen
        size = GPU_WINDOW if self.model.device.type == "cuda" else CPU_WINDOW
        return min(len(self.place_L), -(-seen // size) * size)

    def _forward(self, ids: Tensor, mask: Tensor, position: Tensor) -> Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV: Tensor = output.logits[:, -1]
        return logits_BV
