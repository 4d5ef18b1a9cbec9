"""Sizes read from a configuration, compared with the models themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from rlhf.errors import UserError
from rlhf.models.sizes import gptj_size, read_model_size
from tests.support.tiny_models import Architecture, tiny_model


@pytest.mark.parametrize("architecture", ["gptj", "gpt_neox", "llama", "gpt2", "qwen2"])
def test_parameters_are_those_of_the_model(architecture: Architecture, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", architecture)
    model = AutoModelForCausalLM.from_pretrained(folder)
    size = read_model_size(json.loads((folder / "config.json").read_text()), architecture)
    assert size.parameters == model.num_parameters()
    assert size.vocab_size == model.get_input_embeddings().num_embeddings


def test_gpt_j_6b_has_as_many_parameters_as_published() -> None:
    """28 x (12 x 4096^2 + 7 x 4096) + 2 x 50400 x 4096 + 50400 + 2 x 4096."""
    size = gptj_size(4096, 28, 50400)
    assert size.parameters == 28 * 201_355_264 + 2 * 206_438_400 + 50_400 + 8_192 == 6_050_882_784


def test_grouped_keys_make_a_small_cache() -> None:
    """Hidden size 8, 4 heads of 2, one of them keys and values: q and o 8 x 8 each, k and v 8 x 2, MLP 3 x 8 x 16."""
    size = read_model_size(
        {
            "model_type": "qwen3",
            "hidden_size": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "intermediate_size": 16,
            "vocab_size": 10,
            "tie_word_embeddings": True,
        },
        "config.json",
    )
    assert size.block_weights == 2 * 64 + 2 * 16 + 384
    assert size.block_parameters == size.block_weights + 2 * 2 + 2 * 8
    assert size.cache_bytes(5, 2) == 2 * 2 * 2 * 5 * 2
    assert size.parameters == 80 + 2 * size.block_parameters + 8


def test_an_unsupported_configuration_is_an_error_that_names_its_file() -> None:
    with pytest.raises(UserError, match=r"config: model_type \(mamba\) cannot be planned for; supported are gpt2"):
        read_model_size({"model_type": "mamba"}, "config")
    with pytest.raises(UserError, match=r"config: has no 'n_layer'"):
        read_model_size({"model_type": "gptj", "n_embd": 8}, "config")
