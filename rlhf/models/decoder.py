"""Decodes with a causal language model: one token of each row at a time, with a cache of keys and values.

B rows of a batch, b rows still active, Q prompt tokens, L cache length, W visible part of the cache, V vocabulary,
H hidden size.

Keys and values live in a preallocated buffer.  Write position and mask are tensors, so every step launches the same
kernels on the same addresses and can be captured as a CUDA graph; on a CPU the same step runs as plain Python.  The
parameters are the model's own, so generation always uses the weights that are being trained.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from rlhf.models.cuda_graph import as_cuda_graph

FIXED_SHAPES = ("gpt2", "gpt_neox", "gptj", "llama", "mistral", "qwen2", "qwen3")
"""Model types that take a prepared mask, so that a step's shapes need not grow with every token."""
CPU_WINDOW, GPU_WINDOW = 16, 256
"""Positions by which the visible part of the cache grows.  On a GPU each growth is a new graph."""


class Cursor:
    """Position that all blocks write the next token to, and the number of positions that they see."""

    def __init__(self, device: torch.device) -> None:
        self.position_1 = torch.zeros(1, dtype=torch.long, device=device)
        self.window = 0


class PreallocatedCacheLayer(DynamicLayer):  # type: ignore[misc]  # transformers' classes count as untyped
    """Keys and values of one block in a preallocated buffer; transformers would copy all of them for every token."""

    def __init__(self, max_length: int, cursor: Cursor) -> None:
        super().__init__()
        self.max_length, self.cursor = max_length, cursor

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_options: object
    ) -> tuple[Tensor, Tensor]:
        """Store the prompts or the next token; returns the visible keys and values [B, heads, positions, head size]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.key_buffer, self.value_buffer = self._allocate(key_states), self._allocate(value_states)
            end = key_states.shape[2]
            self.key_buffer[:, :, :end], self.value_buffer[:, :, :end] = key_states, value_states
        else:
            end = self.cursor.window
            self.key_buffer.index_copy_(2, self.cursor.position_1, key_states)
            self.value_buffer.index_copy_(2, self.cursor.position_1, value_states)
        self.keys, self.values = self.key_buffer[:, :, :end], self.value_buffer[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the rows `indices`: each stays in its slot or moves to the slot of a removed row."""
        count, end = len(indices), self.get_seq_length()
        moved = (indices != torch.arange(count, device=indices.device)).nonzero()[:, 0]
        for buffer in (self.key_buffer, self.value_buffer):
            buffer[moved, :, :end] = buffer[indices[moved], :, :end]
        self.key_buffer, self.value_buffer = self.key_buffer[:count], self.value_buffer[:count]
        self.keys, self.values = self.key_buffer[:, :, :end], self.value_buffer[:, :, :end]

    def _allocate(self, states: Tensor) -> Tensor:
        rows, heads, _, size = states.shape
        return states.new_zeros(rows, heads, self.max_length, size)  # masked positions are multiplied by 0: no NaN


class HiddenStateRecorder:
    """Records the hidden states [B, L, H] that enter a block."""

    def __init__(self, block: nn.Module, rows: int, max_length: int, cursor: Cursor) -> None:
        self.rows, self.max_length, self.cursor = rows, max_length, cursor
        self.active_b: Tensor | None = None
        self.hidden_BLH: Tensor | None = None
        self.hook = block.register_forward_pre_hook(self._record)

    def _record(self, _block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        states = inputs[0]
        if self.hidden_BLH is None:
            self.hidden_BLH = states.new_zeros(self.rows, self.max_length, states.shape[-1])
            self.hidden_BLH[:, : states.shape[1]] = states
        else:
            assert self.active_b is not None
            self.hidden_BLH.index_put_((self.active_b, self.cursor.position_1.expand_as(self.active_b)), states[:, 0])


class Decoder:
    """Decodes a batch of prompts, which are padded on the left."""

    def __init__(
        self, model: PreTrainedModel, prompts: list[list[int]], max_response_tokens: int, record_block: nn.Module | None
    ) -> None:
        """With `record_block`, a block of the model, the hidden states that enter it are recorded."""
        device, rows = model.device, len(prompts)
        self.model = model
        self.prompt_length = max(map(len, prompts))
        max_length = self.prompt_length + max_response_tokens
        self.padding = [self.prompt_length - len(prompt) for prompt in prompts]
        self.padding_b1 = torch.tensor(self.padding, device=device)[:, None]
        self.ids_BQ = torch.tensor(
            [[0] * pad + prompt for pad, prompt in zip(self.padding, prompts, strict=True)], device=device
        )
        self.active_b = torch.arange(rows, device=device)
        """Indices of the active rows."""
        self.position_L = torch.arange(max_length, device=device)
        self.cursor = Cursor(device)
        self.cache = DynamicCache(config=model.config)
        plain = all(type(layer) is DynamicLayer for layer in self.cache.layers)
        self.fixed_shapes = plain and model.config.model_type in FIXED_SHAPES
        self.cache.layers = [
            PreallocatedCacheLayer(max_length, self.cursor) if type(layer) is DynamicLayer else layer
            for layer in self.cache.layers
        ]
        self.recorder = (
            HiddenStateRecorder(record_block, rows, max_length, self.cursor) if record_block is not None else None
        )
        self.token_b1 = self.ids_BQ[:, -1:]
        self._step: Callable[[], Tensor] | None = None

    def close(self) -> None:
        """Stop recording, and break the reference cycle with the step so that keys and values are freed immediately."""
        if self.recorder is not None:
            self.recorder.hook.remove()
        self._step = None

    def prefill(self) -> Tensor:
        """Run the prompts through the model; returns the logits [B, V] of each row's first token."""
        position_Q = self.position_L[: self.prompt_length]
        logits_BV = self._forward(
            self.ids_BQ, (position_Q >= self.padding_b1).long(), (position_Q - self.padding_b1).clamp_min(0)
        )
        self.cursor.position_1.fill_(self.prompt_length - 1)
        return logits_BV

    def should_compact(self, rows: int) -> bool:
        """Whether to drop finished rows when `rows` unfinished ones remain.

        On a CPU, dropping a finished row pays off immediately.  On a GPU a new batch size means a new CUDA graph, so
        wait until half of the rows are done.
        """
        active = len(self.active_b)
        return rows <= active // 2 if self.model.device.type == "cuda" else rows < active

    def compact(self, rows_b: Tensor) -> Tensor:
        """Continue with some of the active rows only, given by their ascending indices among the active rows.

        Returns the indices in their new order: the last rows move to the slots of removed ones.
        """
        count = len(rows_b)
        order_b = torch.arange(count, device=rows_b.device)
        removed = torch.ones_like(order_b, dtype=torch.bool)
        removed[rows_b[rows_b < count]] = False
        order_b[removed] = rows_b[rows_b >= count]
        self.cache.batch_select_indices(order_b)
        self.active_b, self.padding_b1 = self.active_b[order_b], self.padding_b1[order_b]
        self._step = None
        return order_b

    def decode_step(self, token_b: Tensor, position: int) -> Tensor:
        """Append one token to each active row at `position`; returns the logits [b, V] of the next token.

        The logits are valid until the next call.
        """
        window = self._window(position + 1)
        if self._step is None or window != self.cursor.window:
            self.cursor.window, self.token_b1 = window, token_b[:, None].clone()
            if self.recorder is not None:
                self.recorder.active_b = self.active_b
            self.cursor.position_1.fill_(position)
            self._step = (
                as_cuda_graph(self._forward_token, token_b.device) if self.fixed_shapes else self._forward_token
            )
        self.token_b1.copy_(token_b[:, None])
        self.cursor.position_1.fill_(position)
        return self._step()

    def hidden_states(self, row: int, response_tokens: int) -> Tensor | None:
        """A copy of the recorded states of a row's tokens but the last [tokens - 1, H]; None if nothing is recorded."""
        if self.recorder is None:
            return None
        assert self.recorder.hidden_BLH is not None
        return self.recorder.hidden_BLH[row, self.padding[row] : self.prompt_length + response_tokens - 1].clone()

    def _forward_token(self) -> Tensor:
        """One step: reads and writes the same memory each time."""
        position_1, position_W = self.cursor.position_1, self.position_L[: self.cursor.window]
        visible_bW = (position_W >= self.padding_b1) & (position_W <= position_1)
        mask = visible_bW.long()
        if self.fixed_shapes:
            mask = torch.zeros_like(visible_bW, dtype=self.model.dtype)
            mask = mask.masked_fill_(~visible_bW, -torch.inf)[:, None, None]
        return self._forward(self.token_b1, mask, position_1 - self.padding_b1)

    def _window(self, length: int) -> int:
        """Visible cache positions for a sequence of `length` tokens."""
        if not self.fixed_shapes:
            return length
        size = GPU_WINDOW if self.model.device.type == "cuda" else CPU_WINDOW
        return min(len(self.position_L), -(-length // size) * size)

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
