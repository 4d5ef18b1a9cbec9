"""Faster arithmetic for the models of a PPO run: the same functions of the same parameters, up to rounding.

transformers 5 computes GPT-J's attention as separate float32 products, copies its rotary table for every row of every
block, and GPT-2's GELU as seven element-wise operations.  B rows, L tokens, h heads, s head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.activations import GELUTanh, NewGELUActivation
from transformers.models.gptj.modeling_gptj import GPTJAttention


def use_fast_kernels(model: PreTrainedModel) -> PreTrainedModel:
    """Change how `model` computes, in place; names, parameters and what is saved stay.  Returns `model`."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, GELUTanh())
            elif type(child) is GPTJAttention:
                child.__class__ = FusedGptjAttention  # another forward for the same parameters
                model.config._attn_implementation = "sdpa"  # masks as FusedGptjAttention takes them
    return model


class FusedGptjAttention(GPTJAttention):  # type: ignore[misc]  # transformers' classes count as untyped
    """GPT-J's attention through torch's fused kernel."""

    def forward(
        self,
        hidden_states: Tensor,
        layer_past: Any = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **_options: object,
    ) -> tuple[Tensor, None]:
        """Output [B, L, h * s]; a mask of None is a causal one."""
        heads = (*hidden_states.shape[:2], self.num_attention_heads, self.head_dim)
        rotation = self._rotation(position_ids)
        query = _rotate(self.q_proj(hidden_states).view(heads), rotation).transpose(1, 2)
        key = _rotate(self.k_proj(hidden_states).view(heads), rotation).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_idx)
        causal = attention_mask is None and query.shape[2] > 1
        mixed = functional.scaled_dot_product_attention(query, key, value, attention_mask, is_causal=causal)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None

    def _rotation(self, position_BL: Tensor | None) -> Tensor:
        """The rotation of each token's pairs as complex numbers [B, L, 1, pairs]."""
        sine, cosine = self.embed_positions[position_BL].float().chunk(2, dim=-1)
        return torch.complex(cosine, sine)[:, :, None]


def _rotate(states: Tensor, rotation: Tensor) -> Tensor:
    """Rotate neighbouring pairs of the first entries of each head, as many as there are rotations."""
    size = 2 * rotation.shape[-1]
    pairs = torch.view_as_complex(states[..., :size].float().reshape(*states.shape[:-1], -1, 2))
    rotated = torch.view_as_real(pairs * rotation).flatten(-2).to(states.dtype)
    return rotated if size == states.shape[-1] else torch.cat([rotated, states[..., size:]], dim=-1)
