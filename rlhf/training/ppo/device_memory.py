"""Memory of loaded models, and how much of the device the KV cache may use."""

from __future__ import annotations

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from rlhf.training.ppo.memory import cpu_kv_cache_budget, gpu_kv_cache_budget


@torch.no_grad()
def cache_bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes of one token's keys and values in all blocks, measured with a sequence of one token."""
    cache = DynamicCache(config=model.config)
    model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), past_key_values=cache, use_cache=True)
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def parameter_bytes(*modules: nn.Module) -> int:
    """Bytes of the parameters; shared ones count once."""
    parameters = {parameter for module in modules for parameter in module.parameters()}
    return sum(parameter.nbytes for parameter in parameters)


def kv_cache_budget(device: torch.device, *, weights: int, resident: int) -> int:
    """Bytes that keys and values may take during generation; the same for every step and every rerun.

    On a GPU: what `resident` bytes leave free.  On a CPU: 1.5 times the `weights` of the policy.  Every token reads all
    weights and the complete cache, so a larger batch would hardly be faster.
    """
    if device.type != "cuda":
        return cpu_kv_cache_budget(weights)
    return gpu_kv_cache_budget(torch.cuda.get_device_properties(device).total_memory, resident)
