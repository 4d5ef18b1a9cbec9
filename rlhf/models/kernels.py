"""Faster kernels for loaded models: the same functions of the same parameters, up to rounding.

B rows, L tokens, K of them from a first position on, H hidden size, T positions chosen from all rows.

transformers 5 computes GPT-J's attention as separate float32 products, copies its rotary table for every row of every
block, and computes GPT-2's GELU as seven element-wise operations.
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
    """Replace slow modules of `model` in place and return it; parameters, names and saved files stay the same."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, nn.GELU(approximate="tanh"))
            elif type(child) is GPTJAttention:
                child.__class__ = FusedGptjAttention  # another forward method, the same parameters
                model.config._attn_implementation = "sdpa"  # selects the masks that FusedGptjAttention takes
    return model


class FusedGptjAttention(GPTJAttention):  # type: ignore[misc]  # transformers' classes count as untyped
    """GPT-J's attention with torch's fused kernel."""

    def forward(
        self,
        hidden_states: Tensor,
        layer_past: Any = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **_options: object,
    ) -> tuple[Tensor, None]:
        """Output [B, L, H]; without a mask, attention is causal."""
        rotation = self._rotation(position_ids)
        query = _rotate(self._heads(self.q_proj(hidden_states)), rotation).transpose(1, 2)
        key = _rotate(self._heads(self.k_proj(hidden_states)), rotation).transpose(1, 2)
        value = self._heads(self.v_proj(hidden_states)).transpose(1, 2)
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_idx)
        causal = attention_mask is None and query.shape[2] > 1
        dropout = self.attn_dropout.p if self.training else 0.0
        attention = functional.scaled_dot_product_attention(
            query, key, value, attention_mask, dropout, is_causal=causal
        )
        return self.resid_dropout(self.out_proj(attention.transpose(1, 2).flatten(2))), None

    def attention_from(self, hidden_BLH: Tensor, first: int) -> Tensor:
        """Causal attention at the positions from `first` on, before the output projection [B, K, H].

        Without dropout, as PPO runs models.
        """
        length = hidden_BLH.shape[1]
        position_L = torch.arange(length, device=hidden_BLH.device)
        rotation = self._rotation(position_L[None])
        query = _rotate(self._heads(self.q_proj(hidden_BLH[:, first:])), rotation[:, first:]).transpose(1, 2)
        key = _rotate(self._heads(self.k_proj(hidden_BLH)), rotation).transpose(1, 2)
        value = self._heads(self.v_proj(hidden_BLH)).transpose(1, 2)
        visible_KL = position_L <= position_L[first:, None]
        return functional.scaled_dot_product_attention(query, key, value, visible_KL).transpose(1, 2).flatten(2)

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self.num_attention_heads, self.head_dim)

    def _rotation(self, position_BL: Tensor | None) -> Tensor:
        """Rotations of each token's pairs, as complex numbers [B, L, 1, pairs]."""
        sine, cosine = self.embed_positions[position_BL].float().chunk(2, dim=-1)
        return torch.complex(cosine, sine)[:, :, None]


def supports_partial_forward(block: nn.Module) -> bool:
    """Whether `block_forward_at` can compute this block."""
    return type(block) is GPTJBlock and type(block.attn) is FusedGptjAttention


def block_forward_at(block: Any, hidden_BLH: Tensor, row_T: Tensor, position_T: Tensor, first: int) -> Tensor:
    """Outputs of a block at the positions (row_T, position_T) only [T, H]; `first` is the lowest of position_T.

    Other positions only provide keys and values.  After the last block only the positions that predict the response
    are read, which are half of all or fewer.
    """
    normed_BLH = block.ln_1(hidden_BLH)
    attention_TH = block.attn.attention_from(normed_BLH, first)[row_T, position_T - first]
    output_TH: Tensor = block.attn.out_proj(attention_TH) + block.mlp(normed_BLH[row_T, position_T])
    return output_TH + hidden_BLH[row_T, position_T]


def _rotate(states: Tensor, rotation: Tensor) -> Tensor:
    """Rotate neighboring pairs of the first entries of each head; `rotation` says how many pairs."""
    size = 2 * rotation.shape[-1]
    pairs = torch.view_as_complex(states[..., :size].float().reshape(*states.shape[:-1], -1, 2))
    rotated = torch.view_as_real(pairs * rotation).flatten(-2).to(states.dtype)
    return rotated if size == states.shape[-1] else torch.cat([rotated, states[..., size:]], dim=-1)
