"""Sizes of a causal language model, read from its configuration, to compute memory and cost.  Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.errors import UserError

MLP_RATIO = 4
GATED_MLP_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types with an MLP of three matrices, RMS norms and grouped keys and values."""
SUPPORTED_TYPES = ("gpt2", "gpt_neox", "gptj", *GATED_MLP_TYPES)


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a stack of equal blocks between embeddings and an output layer."""

    hidden_size: int
    num_layers: int
    """Number of blocks."""
    vocab_size: int
    """Rows of the embeddings."""
    block_weights: int
    """Parameters of a block's matrices: a token takes two operations with each."""
    block_parameters: int
    """All parameters of a block: matrices, biases and norms."""
    kv_size: int
    """Size of a token's keys in a block; its values have the same size."""
    embedding_parameters: int
    final_norm_parameters: int
    output_parameters: int
    """Parameters of the output layer; 0 if it shares the embeddings' weights."""
    skipped_weights: int = 0
    """Weights of the last block that PPO does not apply at prompt tokens (`rlhf.models.kernels.block_forward_at`)."""

    @property
    def parameters(self) -> int:
        """Parameters of the complete model."""
        return self.embedding_parameters + self.stack_parameters + self.output_parameters

    @property
    def stack_parameters(self) -> int:
        """Parameters of all blocks and the final norm."""
        return self.num_layers * self.block_parameters + self.final_norm_parameters

    @property
    def reward_parameters(self) -> int:
        """Parameters of a reward model of this kind: one number in place of the output layer."""
        return self.embedding_parameters + self.stack_parameters + self.hidden_size

    @property
    def value_head_parameters(self) -> int:
        """Parameters of PPO's value head: a layer of twice the hidden size, and one number."""
        return 2 * self.hidden_size**2 + 4 * self.hidden_size + 1

    def top_parameters(self, unfrozen_blocks: int) -> int:
        """Parameters that PPO trains in the model: the top blocks, the final norm, and an output layer of its own."""
        return unfrozen_blocks * self.block_parameters + self.final_norm_parameters + self.output_parameters

    def cache_bytes(self, tokens: int, dtype_bytes: int) -> int:
        """Bytes of the keys and values of `tokens` tokens, at `dtype_bytes` a number."""
        return 2 * self.num_layers * self.kv_size * tokens * dtype_bytes


def gptj_size(hidden_size: int, num_layers: int, vocab_size: int) -> ModelSize:
    """Size of a GPT-J: a block has 12 H^2 + 7 H parameters, the output layer V H + V (H hidden size, V vocabulary)."""
    weights = (4 + 2 * MLP_RATIO) * hidden_size**2
    return ModelSize(
        hidden_size=hidden_size,
        num_layers=num_layers,
        vocab_size=vocab_size,
        block_weights=weights,
        block_parameters=weights + 7 * hidden_size,
        kv_size=hidden_size,
        embedding_parameters=vocab_size * hidden_size,
        final_norm_parameters=2 * hidden_size,
        output_parameters=vocab_size * hidden_size + vocab_size,
        skipped_weights=weights - 2 * hidden_size**2,
    )


def read_model_size(config: Mapping[str, Any], origin: str) -> ModelSize:
    """Read the sizes from the content of a transformers config.json.

    Raises UserError, which names `origin`, if the model type is not one of SUPPORTED_TYPES or a size is missing.
    """
    model_type = config.get("model_type")
    if model_type not in SUPPORTED_TYPES:
        raise UserError(
            f"{origin}: model_type ({model_type}) cannot be planned for; supported are {', '.join(SUPPORTED_TYPES)}"
        )
    try:
        if model_type == "gptj":
            return gptj_size(config["n_embd"], config["n_layer"], config["vocab_size"])
        if model_type == "gpt2":
            return _gpt2_size(config)
        return _gated_mlp_size(config) if model_type in GATED_MLP_TYPES else _gpt_neox_size(config)
    except KeyError as missing:
        raise UserError(f"{origin}: has no {missing}; give the model's own config.json") from missing


def _gpt2_size(config: Mapping[str, Any]) -> ModelSize:
    hidden, inner = config["n_embd"], config.get("n_inner") or MLP_RATIO * config["n_embd"]
    weights = 4 * hidden**2 + 2 * hidden * inner
    return ModelSize(
        hidden_size=hidden,
        num_layers=config["n_layer"],
        vocab_size=config["vocab_size"],
        block_weights=weights,
        block_parameters=weights + 4 * hidden + inner + hidden + 4 * hidden,
        kv_size=hidden,
        embedding_parameters=(config["vocab_size"] + config["n_positions"]) * hidden,
        final_norm_parameters=2 * hidden,
        output_parameters=0,
    )


def _gpt_neox_size(config: Mapping[str, Any]) -> ModelSize:
    hidden, inner, vocab_size = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    weights = 4 * hidden**2 + 2 * hidden * inner
    return ModelSize(
        hidden_size=hidden,
        num_layers=config["num_hidden_layers"],
        vocab_size=vocab_size,
        block_weights=weights,
        block_parameters=weights + 4 * hidden + inner + hidden + 4 * hidden,
        kv_size=hidden,
        embedding_parameters=vocab_size * hidden,
        final_norm_parameters=2 * hidden,
        output_parameters=0 if config.get("tie_word_embeddings", False) else vocab_size * hidden,
    )


def _gated_mlp_size(config: Mapping[str, Any]) -> ModelSize:
    hidden, heads, vocab_size = config["hidden_size"], config["num_attention_heads"], config["vocab_size"]
    head_size = config.get("head_dim") or hidden // heads
    query_size, kv_size = heads * head_size, (config.get("num_key_value_heads") or heads) * head_size
    weights = 2 * hidden * (query_size + kv_size) + 3 * hidden * config["intermediate_size"]
    biases = query_size + 2 * kv_size if config["model_type"] == "qwen2" else 0
    head_norms = 2 * head_size if config["model_type"] == "qwen3" else 0
    return ModelSize(
        hidden_size=hidden,
        num_layers=config["num_hidden_layers"],
        vocab_size=vocab_size,
        block_weights=weights,
        block_parameters=weights + biases + head_norms + 2 * hidden,
        kv_size=kv_size,
        embedding_parameters=vocab_size * hidden,
        final_norm_parameters=hidden,
        output_parameters=0 if config.get("tie_word_embeddings", False) else vocab_size * hidden,
    )
