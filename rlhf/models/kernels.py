"""Faster arithmetic for models that are loaded: the same functions of the same parameters, up to rounding.

transformers 5 computes GPT-J's attention as separate float32 products, copies its rotary table for every row of every
block, and GPT-2's GELU as seven element-wise operations.  B rows, L tokens, h heads, s head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.models.gptj.modeling_gptj import GPTJAttention, GPTJBlock


def patch_fast_kernels(model: PreTrainedModel) -> PreTrainedModel:
    """Change how `model` computes, in place; names, parameters and what is saved stay.  Returns `model`."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, nn.GELU(approximate="tanh"))
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
        rotation = self._rotation(position_ids)
        query = _rotate(self._heads(self.q_proj(hidden_states)), rotation).transpose(1, 2)
        key = _rotate(self._heads(self.k_proj(hidden_states)), rotation).transpose(1, 2)
        value = self._heads(self.v_proj(hidden_states)).transpose(1, 2)
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_idx)
        causal = attention_mask is None and query.shape[2] > 1
        dropped = self.attn_dropout.p if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, attention_mask, dropped, is_causal=causal)
        return self.resid_dropout(self.out_proj(mixed.transpose(1, 2).flatten(2))), None

    def attention_from(self, hidden_BLd: Tensor, first: int) -> Tensor:
        """What goes into the output projection at the places from `first` on [B, L - first, h * s], causal.

        Without dropout, as PPO runs models.
        """
        length = hidden_BLd.shape[1]
        place_L = torch.arange(length, device=hidden_BLd.device)
        rotation = self._rotation(place_L[None])
        query = _rotate(self._heads(self.q_proj(hidden_BLd[:, first:])), rotation[:, first:]).transpose(1, 2)
        key = _rotate(self._heads(self.k_proj(hidden_BLd)), rotation).transpose(1, 2)
        value = self._heads(self.v_proj(hidden_BLd)).transpose(1, 2)
        seen_QL = place_L <= place_L[first:, None]
        return functional.scaled_dot_product_attention(query, key, value, seen_QL).transpose(1, 2).flatten(2)

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self.num_attention_heads, self.head_dim)

    def _rotation(self, position_BL: Tensor | None) -> Tensor:
        """The rotation of each token's pairs as complex numbers [B, L, 1, pairs]."""
        sine, cosine = self.embed_positions[position_BL].float().chunk(2, dim=-1)
        return torch.complex(cosine, sine)[:, :, None]


def supports_partial_forward(block: nn.Module) -> bool:
    """Whether `block_forward_at` takes the block."""
    return type(block) is GPTJBlock and type(block.attn) is FusedGptjAttention


def block_forward_at(block: Any, hidden_BLd: Tensor, row_T: Tensor, place_T: Tensor, first: int) -> Tensor:
    """What a block gives at some places [T, d], of which `first` is the lowest; the others make keys and values only.

    Behind the last block nothing but the places that predict the response is read, which are half of them or fewer.
    """
    normed_BLd = block.ln_1(hidden_BLd)
    mixed_Td = block.attn.attention_from(normed_BLd, first)[row_T, place_T - first]
    output_Td: Tensor = block.attn.out_proj(mixed_Td) + block.mlp(normed_BLd[row_T, place_T])
    return output_Td + hidden_BLd[row_T, place_T]


def _rotate(states: Tensor, rotation: Tensor) -> Tensor:
    """Rotate neighbouring pairs of the first entries of each head, as many as there are rotations."""
    size = 2 * rotation.shape[-1]
    pairs = torch.view_as_complex(states[..., :size].float().reshape(*states.shape[:-1], -1, 2))
    rotated = torch.view_as_real(pairs * rotation).flatten(-2).to(states.dtype)
    return rotated if size == states.shape[-1] else torch.cat([rotated, states[..., size:]], dim=-1)
