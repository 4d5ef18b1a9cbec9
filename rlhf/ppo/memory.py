"""How much memory a PPO run takes on one device: a formula, held against measured peaks by a test."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

GPU_SHARE = 0.75
"""Of a GPU's memory, what standing tensors and the decoding cache may take; the rest is for what passes through."""
FLOAT32 = 4
MLP_RATIO = 4
PASSING_WIDTHS = 14
"""Activations of a block that are alive at once without gradients, in hidden sizes: two MLP layers and the rest."""
SAVED_WIDTHS = 30
"""Activations that a block keeps for its gradients, in hidden sizes: MLP before and after GELU, their gradients, norm,
query, key, value and their rotations."""
LOGIT_COPIES = 4
"""Float32 copies of the logits that a minibatch holds: logits, log-softmax and the gradients of both."""


@torch.no_grad()
def cache_bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes of keys and values of one token, over all blocks: read from the cache of one."""
    cache = DynamicCache(config=model.config)
    model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), past_key_values=cache, use_cache=True)
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def parameter_bytes(*modules: nn.Module) -> int:
    """Bytes of the parameters, shared ones counted once."""
    parameters = {parameter for module in modules for parameter in module.parameters()}
    return sum(parameter.nbytes for parameter in parameters)


def cache_room(device: torch.device, *, weights: int, standing: int) -> int:
    """Bytes that keys and values may take while answers are drawn; the same for every step and every rerun.

    On a GPU what the `standing` bytes leave.  On a CPU as much as the policy's `weights`: every token reads all of them
    and all of the cache, so more rows at once would hardly be faster.
    """
    if device.type != "cuda":
        return weights
    total = torch.cuda.get_device_properties(device).total_memory
    return max(0, int(GPU_SHARE * total) - standing)


def decode_rows(rollouts: int, *, at_most: int, row_bytes: int, room: int) -> int:
    """How many answers to draw at once: equal batches, as few as the room for their keys and values allows."""
    fitting = max(1, min(at_most, room // row_bytes))
    return math.ceil(rollouts / math.ceil(rollouts / fitting)) if rollouts else fitting


class PpoMemory(NamedTuple):
    """Bytes by what they are for."""

    policy: int
    reward_model: int
    reference: int
    """The frozen copy of what is trained."""
    optimizer: int
    """AdamW's moments, and float32 masters where the weights have fewer bits."""
    kept: int
    """Trunk states of all rollouts of the process."""
    decode: int
    """Keys and values of the batch that is decoded, and what its prompts pass through."""
    train: int
    """Gradients, and the activations of a minibatch."""

    @property
    def standing(self) -> int:
        """Weights and kept trunk states: what is there in every phase."""
        return self.policy + self.reward_model + self.reference + self.optimizer + self.kept

    @property
    def peak(self) -> int:
        """The most at any time: decoding and training never overlap."""
        return self.standing + max(self.decode, self.train)


def ppo_memory_bytes(
    *,
    width: int,
    blocks: int,
    unfrozen_blocks: int,
    vocabulary: int,
    prompt_tokens: int,
    response_tokens: int,
    rollouts: int,
    rollout_batch: int,
    minibatch: int,
    weight_bytes: int,
) -> PpoMemory:
    """Memory of a GPT-J policy with a reward model of the same size; the last four but one count for one process.

    With d = width, V = vocabulary, w = `weight_bytes`, L = prompt + response tokens:
    a block has 12 d^2 + 7 d parameters, embeddings V d, output layer V d + V, value head 2 d^2 + 4 d + 1.
    AdamW takes 8 bytes per trained parameter, masters 4 more where w < 4.  Keys and values take
    2 x blocks x rollout_batch x L x d x w; kept states rollouts x (L - 1) x d x w.
    The runtime itself (interpreter, libraries, a GPU's context, about 1 GB there) comes on top.
    """
    length = prompt_tokens + response_tokens
    block, output, value_head = 12 * width**2 + 7 * width, vocabulary * width + vocabulary, 2 * width**2 + 4 * width + 1
    stack, top = blocks * block + 2 * width, unfrozen_blocks * block + 2 * width + output
    trained, mastered = top + value_head, weight_bytes < FLOAT32
    state = width * weight_bytes
    passing = PASSING_WIDTHS * rollout_batch * prompt_tokens * state
    cache = (2 * blocks + 1) * rollout_batch * length * state
    saved = SAVED_WIDTHS * unfrozen_blocks * minibatch * length * state
    logits = LOGIT_COPIES * minibatch * response_tokens * vocabulary * FLOAT32
    return PpoMemory(
        policy=(vocabulary * width + stack + output + value_head) * weight_bytes,
        reward_model=(vocabulary * width + stack + width) * weight_bytes,
        reference=top * weight_bytes,
        optimizer=trained * (2 + mastered) * FLOAT32,
        kept=rollouts * (length - 1) * state,
        decode=cache + passing,
        train=trained * (weight_bytes + mastered * FLOAT32) + saved + logits,
    )
