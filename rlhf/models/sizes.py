"""Sizes of a causal language model, from its configuration: what memory and cost are computed from.  Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.errors import UserError

MLP_RATIO = 4
GATED = ("llama", "mistral", "qwen2", "qwen3")
"""Model types with an MLP of three matrices, RMS norms and grouped keys and values."""
KNOWN = ("gpt2", "gpt_neox", "gptj", *GATED)


@dataclass(frozen=True)
class Architecture:
    """A stack of equal blocks between embeddings and an output layer."""

    width: int
    """Hidden size."""
    blocks: int
    vocabulary: int
    """Rows of the embeddings."""
    block_weights: int
    """Parameters of a block's matrices: a token takes two operations with each."""
    block_parameters: int
    """Those, biases and norms."""
    cache_width: int
    """Size of a token's keys, and of its values, in a block."""
    embedding_parameters: int
    final_norm_parameters: int
    output_parameters: int
    """Of the output layer; 0 where it is the embeddings."""
    skipped_weights: int = 0
    """Weights of the last block that PPO does not apply at prompt tokens (see `rlhf.models.kernels.block_at`)."""

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return self.embedding_parameters + self.stack_parameters + self.output_parameters

    @property
    def stack_parameters(self) -> int:
        """Of all blocks and the norm behind them."""
        return self.blocks * self.block_parameters + self.final_norm_parameters

    @property
    def reward_parameters(self) -> int:
        """Of a reward model of this kind: one number in place of the output layer."""
        return self.embedding_parameters + self.stack_parameters + self.width

    @property
    def value_head_parameters(self) -> int:
        """Of PPO's value head: a layer of twice the width, and one number."""
        return 2 * self.width**2 + 4 * self.width + 1

    def top_parameters(self, unfrozen_blocks: int) -> int:
        """Of what PPO trains of the model: the top blocks, the final norm, and an output layer of its own."""
        return unfrozen_blocks * self.block_parameters + self.final_norm_parameters + self.output_parameters

    def cache_bytes(self, tokens: int, number_bytes: int) -> int:
        """Keys and values of so many tokens."""
        return 2 * self.blocks * self.cache_width * tokens * number_bytes


def gptj(width: int, blocks: int, vocabulary: int) -> Architecture:
    """A GPT-J: a block has 12 d^2 + 7 d parameters, the output layer V d + V."""
    weights = (4 + 2 * MLP_RATIO) * width**2
    return Architecture(
        width=width,
        blocks=blocks,
        vocabulary=vocabulary,
        block_weights=weights,
        block_parameters=weights + 7 * width,
        cache_width=width,
        embedding_parameters=vocabulary * width,
        final_norm_parameters=2 * width,
        output_parameters=vocabulary * width + vocabulary,
        skipped_weights=weights - 2 * width**2,
    )


def read_architecture(config: Mapping[str, Any], origin: str) -> Architecture:
    """The sizes that a config.json of transformers declares.

    Raises UserError, with `origin` as the place, where the model type is not one of KNOWN or a size is missing.
    """
    kind = config.get("model_type")
    if kind not in KNOWN:
        raise UserError(f"{origin}: model_type ({kind}) cannot be planned for; known are {', '.join(KNOWN)}")
    try:
        if kind == "gptj":
            return gptj(config["n_embd"], config["n_layer"], config["vocab_size"])
        return _gpt2(config) if kind == "gpt2" else _gated(config) if kind in GATED else _gpt_neox(config)
    except KeyError as missing:
        raise UserError(f"{origin}: has no {missing}; give the model's own config.json") from None


def _gpt2(config: Mapping[str, Any]) -> Architecture:
    width, inner = config["n_embd"], config.get("n_inner") or MLP_RATIO * config["n_embd"]
    weights = 4 * width**2 + 2 * width * inner
    return Architecture(
        width=width,
        blocks=config["n_layer"],
        vocabulary=config["vocab_size"],
        block_weights=weights,
        block_parameters=weights + 4 * width + inner + width + 4 * width,
        cache_width=width,
        embedding_parameters=(config["vocab_size"] + config["n_positions"]) * width,
        final_norm_parameters=2 * width,
        output_parameters=0,
    )


def _gpt_neox(config: Mapping[str, Any]) -> Architecture:
    width, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    weights = 4 * width**2 + 2 * width * inner
    return Architecture(
        width=width,
        blocks=config["num_hidden_layers"],
        vocabulary=vocabulary,
        block_weights=weights,
        block_parameters=weights + 4 * width + inner + width + 4 * width,
        cache_width=width,
        embedding_parameters=vocabulary * width,
        final_norm_parameters=2 * width,
        output_parameters=0 if config.get("tie_word_embeddings", False) else vocabulary * width,
    )


def _gated(config: Mapping[str, Any]) -> Architecture:
    width, heads, vocabulary = config["hidden_size"], config["num_attention_heads"], config["vocab_size"]
    head = config.get("head_dim") or width // heads
    query_width, cache_width = heads * head, (config.get("num_key_value_heads") or heads) * head
    weights = 2 * width * (query_width + cache_width) + 3 * width * config["intermediate_size"]
    biases = query_width + 2 * cache_width if config["model_type"] == "qwen2" else 0
    head_norms = 2 * head if config["model_type"] == "qwen3" else 0
    return Architecture(
        width=width,
        blocks=config["num_hidden_layers"],
        vocabulary=vocabulary,
        block_weights=weights,
        block_parameters=weights + biases + head_norms + 2 * width,
        cache_width=cache_width,
        embedding_parameters=vocabulary * width,
        final_norm_parameters=width,
        output_parameters=0 if config.get("tie_word_embeddings", False) else vocabulary * width,
    )
