"""Memory of a PPO run on one device, as a formula.  A test compares it with measured peaks.

Does not import torch: `rlhf plan` also runs on machines without it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from rlhf.models.sizes import ModelSize

GPU_SHARE = 0.75
"""Share of a GPU's memory for resident tensors and the KV cache; the rest is for transient ones."""
FLOAT32 = 4
TRANSIENT_ACTIVATIONS = 14
"""Activations of a block that exist together without gradients, in hidden sizes: two MLP layers and the rest."""
SAVED_ACTIVATIONS = 30
"""Activations that a block saves for its gradients, in hidden sizes: MLP before and after GELU, their gradients, norm,
query, key, value and their rotations."""
LOGIT_COPIES = 4
"""Float32 copies of the logits that a minibatch holds: logits, log-softmax and the gradients of both."""


def cpu_kv_cache_budget(weights: int) -> int:
    """Bytes that keys and values may take on a CPU, for a policy of `weights` bytes."""
    return weights * 3 // 2


def gpu_kv_cache_budget(device_bytes: int, resident: int) -> int:
    """Bytes that keys and values may take on a GPU with `device_bytes` of memory, `resident` of them in use."""
    return max(0, int(GPU_SHARE * device_bytes) - resident)


def decode_batch_size(rollouts: int, *, max_batch_size: int, bytes_per_row: int, budget: int) -> int:
    """Responses to generate at the same time: the fewest equal batches whose keys and values fit into the budget."""
    fitting = max(1, min(max_batch_size, budget // bytes_per_row))
    return math.ceil(rollouts / math.ceil(rollouts / fitting)) if rollouts else fitting


class PpoMemory(NamedTuple):
    """Bytes on one device, by purpose."""

    policy: int
    reward_model: int
    reference: int
    """Frozen copy of the trained parameters."""
    optimizer: int
    """AdamW state, and float32 masters if the weights have fewer bits."""
    trunk_states: int
    """Of all rollouts of the rank."""
    decode: int
    """KV cache of the batch that is decoded, and the activations of its prompts."""
    train: int
    """Gradients, and the activations of a minibatch."""

    @property
    def resident(self) -> int:
        """Memory in use in every phase: weights, optimizer state and trunk states."""
        return self.policy + self.reward_model + self.reference + self.optimizer + self.trunk_states

    @property
    def peak(self) -> int:
        """Maximum at any time: decoding and training never overlap."""
        return self.resident + max(self.decode, self.train)


def ppo_memory(
    model: ModelSize,
    *,
    unfrozen_blocks: int,
    prompt_tokens: int,
    response_tokens: int,
    rollouts: int,
    decode_batch_size: int,
    minibatch_size: int,
    weight_bytes: int,
    world_size: int = 1,
    reward_model: ModelSize | None = None,
) -> PpoMemory:
    """Memory of one rank.  Without `reward_model`, the reward model has the size of the policy.

    With H = hidden size, V = vocabulary, w = `weight_bytes`, L = prompt + response tokens, P = `world_size` ranks that
    shard the optimizer: AdamW takes 8 / P bytes per trained parameter, masters 4 / P more if w < 4, gradients 4 / P
    and, while they are reduced, those of the largest parameter.  The KV cache takes
    2 x blocks x decode_batch_size x L x key size x w; trunk states rollouts x (L - 1) x H x w.  `rollouts`,
    `decode_batch_size` and `minibatch_size` are those of one rank.
    The runtime (interpreter, libraries, about 1 GB for a GPU's context) is not included.

    Example: GPT-J-6B in bfloat16 on 8 A100 of 40 GB, 384 + 128 tokens, 56 rollouts per rank, minibatches of 4.
    Policy 12.2 GB, reward model 11.7, reference 1.2, optimizer 1.0, trunk states 0.2: 26.3 GB are resident.  The
    budget of the KV cache is 5.7 GB, so 19 responses are generated at the same time; decoding adds 5.4 GB, training
    3.0.  The peak is 31.7 of 42.3 GB: it fits.  On a single such GPU 33.0 GB are resident and the peak is 38.3 GB, with
    one response at a time.  With `unfrozen_blocks: all` a full reference and a larger optimizer make 44.6 GB before any
    training, which needs 8 GPUs of 80 GB (peak 63.3 GB).
    """
    length = prompt_tokens + response_tokens
    top = model.top_parameters(unfrozen_blocks)
    trained, has_masters = top + model.value_head_parameters, weight_bytes < FLOAT32
    state = model.hidden_size * weight_bytes
    transient = TRANSIENT_ACTIVATIONS * decode_batch_size * prompt_tokens * state
    cache = model.cache_bytes(decode_batch_size * length, weight_bytes) + decode_batch_size * length * state
    saved = SAVED_ACTIVATIONS * unfrozen_blocks * minibatch_size * length * state
    logits = LOGIT_COPIES * minibatch_size * response_tokens * model.vocab_size * FLOAT32
    reduced = (world_size > 1 or has_masters) * model.vocab_size * model.hidden_size * (weight_bytes + FLOAT32)
    return PpoMemory(
        policy=(model.parameters + model.value_head_parameters) * weight_bytes,
        reward_model=(reward_model or model).reward_parameters * weight_bytes,
        reference=top * weight_bytes,
        optimizer=trained * (2 + has_masters) * FLOAT32 // world_size,
        trunk_states=rollouts * (length - 1) * state,
        decode=cache + transient,
        train=trained * FLOAT32 // world_size + reduced + saved + logits,
    )
