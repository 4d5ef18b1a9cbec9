"""What loaded models take on their device, and what room that leaves for drawing answers."""

from __future__ import annotations

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from rlhf.training.ppo.memory import cpu_cache_room, gpu_cache_room


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

    On a GPU what the `standing` bytes leave.  On a CPU half as much again as the policy's `weights`: every token reads
    all of them and all of the cache, so more rows at once would hardly be faster.
    """
    if device.type != "cuda":
        return cpu_cache_room(weights)
    return gpu_cache_room(torch.cuda.get_device_properties(device).total_memory, standing)
