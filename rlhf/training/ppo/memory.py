"""How much memory a PPO run takes on one device: a formula, held against measured peaks by a test.

Torch-free: a run is planned where none is installed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from rlhf.models.sizes import Architecture, gptj

GPU_SHARE = 0.75
"""Of a GPU's memory, what standing tensors and the decoding cache may take; the rest is for what passes through."""
FLOAT32 = 4
PASSING_WIDTHS = 14
"""Activations of a block that are alive at once without gradients, in hidden sizes: two MLP layers and the rest."""
SAVED_WIDTHS = 30
"""Activations that a block keeps for its gradients, in hidden sizes: MLP before and after GELU, their gradients, norm,
query, key, value and their rotations."""
LOGIT_COPIES = 4
"""Float32 copies of the logits that a minibatch holds: logits, log-softmax and the gradients of both."""


def cpu_cache_room(weights: int) -> int:
    """Bytes that keys and values may take on a CPU beside so many bytes of the policy."""
    return weights * 3 // 2


def gpu_cache_room(device_bytes: int, standing: int) -> int:
    """Bytes that keys and values may take on a GPU of that memory, of which `standing` bytes are taken."""
    return max(0, int(GPU_SHARE * device_bytes) - standing)


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


def ppo_memory(
    model: Architecture,
    *,
    unfrozen_blocks: int,
    prompt_tokens: int,
    response_tokens: int,
    rollouts: int,
    rollout_batch: int,
    minibatch: int,
    weight_bytes: int,
    processes: int = 1,
    reward_model: Architecture | None = None,
) -> PpoMemory:
    """Memory of a policy with a reward model, of the same size where none is given; on one process of several.

    With d = width, V = vocabulary, w = `weight_bytes`, L = prompt + response tokens, P processes that share the
    optimizer's part: AdamW takes 8 / P bytes per trained parameter, masters 4 / P more where w < 4; gradients 4 / P
    and, while it is handed over, the largest parameter's.  Keys and values take
    2 x blocks x rollout_batch x L x their width x w; kept states rollouts x (L - 1) x d x w.  Rollouts, rollout batch
    and minibatch are those of one process.
    The runtime itself (interpreter, libraries, a GPU's context, about 1 GB there) comes on top.

    Worked: GPT-J-6B in bfloat16 on 8 A100 of 40 GB, 384 + 128 tokens, 56 rollouts of a process, minibatches of 4.
    Policy 12.2 GB, reward model 11.7, reference 1.2, optimizer 1.0, kept states 0.2: 26.3 GB stand.  There is room for
    5.7 GB of keys and values, so 19 answers are drawn at once; decoding adds 5.4 GB, training 3.0.  The peak is 31.7 GB
    of 42.3: it fits.  On one such GPU alone 33.0 GB stand and the peak is 38.3 GB, with one answer at a time.  With
    `unfrozen_blocks: all` the whole reference and a larger optimizer make it 44.6 GB before any training: that takes
    8 GPUs of 80 GB (peak 63.3 GB).
    """
    length = prompt_tokens + response_tokens
    top = model.top_parameters(unfrozen_blocks)
    trained, mastered = top + model.value_head_parameters, weight_bytes < FLOAT32
    state = model.width * weight_bytes
    passing = PASSING_WIDTHS * rollout_batch * prompt_tokens * state
    cache = model.cache_bytes(rollout_batch * length, weight_bytes) + rollout_batch * length * state
    saved = SAVED_WIDTHS * unfrozen_blocks * minibatch * length * state
    logits = LOGIT_COPIES * minibatch * response_tokens * model.vocabulary * FLOAT32
    handed_over = (processes > 1 or mastered) * model.vocabulary * model.width * (weight_bytes + FLOAT32)
    return PpoMemory(
        policy=(model.parameters + model.value_head_parameters) * weight_bytes,
        reward_model=(reward_model or model).reward_parameters * weight_bytes,
        reference=top * weight_bytes,
        optimizer=trained * (2 + mastered) * FLOAT32 // processes,
        kept=rollouts * (length - 1) * state,
        decode=cache + passing,
        train=trained * FLOAT32 // processes + handed_over + saved + logits,
    )


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
    """`ppo_memory` of a GPT-J and a reward model of the same size in one process."""
    return ppo_memory(
        gptj(width, blocks, vocabulary),
        unfrozen_blocks=unfrozen_blocks,
        prompt_tokens=prompt_tokens,
        response_tokens=response_tokens,
        rollouts=rollouts,
        rollout_batch=rollout_batch,
        minibatch=minibatch,
        weight_bytes=weight_bytes,
    )
