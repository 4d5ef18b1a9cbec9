"""A config.json of unknown origin: usable parts are used, and everything else is one line, before memory is taken."""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf.errors import UserError
from rlhf.models import config_file
from rlhf.models.checks import read_model
from rlhf.models.config_file import read_config
from rlhf.models.loading import load_causal_lm, load_reward_model
from tests.support.model_folders import edit_json
from tests.support.tiny_models import tiny_model

IDS = torch.tensor([[5, 6, 7, 8]])


def refusal(load: Callable[[], object]) -> str:
    """The message of the UserError that `load` raises: one line."""
    with pytest.raises(UserError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "32"}, "'hidden_size' expected int, got str"),
        ({"num_hidden_layers": [3]}, "'num_hidden_layers' expected int, got list"),
        ({"pad_token_id": "x"}, "'pad_token_id' with value 'x'"),
        ({"rope_parameters": 5}, "'rope_parameters' with value 5"),
        ({"hidden_act": "nope"}, "transformers cannot build a model from it"),
        ({"num_attention_heads": -4}, "transformers cannot build a model from it"),
        ({"model_type": ["llama"]}, "model_type (['llama']) is not one that transformers"),
        ({"num_hidden_layers": 10**7}, "num_hidden_layers is 10000000, but at most 1000 are read"),
        ({"num_labels": 10**11}, "num_labels is 100000000000, but at most 100000 are read"),
        ({"text_config": {"n_layer": 10**7}}, "n_layer is 10000000, but at most 1000 are read"),
        ({"vocab_size": 10**11}, "vocab_size is 100000000000, but at most 2147483647 are read"),
        ({"vocab_size": 2 * 10**9}, "describes a model of 128,000,027,872 numbers, but the weights have only"),
        ({"intermediate_size": 2 * 10**9}, "describes a model of 576,000,030,432 numbers"),
    ],
)
def test_wrong_types_and_absurd_sizes_are_one_line_in_no_time_and_memory(
    folder: Path, changes: dict[str, object], message: str
) -> None:
    """The numbers by hand: hidden size 32, 328 rows twice, 3 blocks with an MLP of 3 matrices of width 64.

    A vocabulary of 2e9 has 2 x 32 x 2e9 numbers, an MLP of width 2e9 has 3 x 3 x 32 x 2e9, besides the small ones.
    """
    edit_json(folder / "config.json", **changes)
    started, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = refusal(lambda: load_causal_lm(folder, "float32"))
    assert str(folder / "config.json") in told
    assert message in told
    assert time.monotonic() - started < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000  # kilobytes


def test_nesting_that_is_too_deep_is_one_line(folder: Path) -> None:
    values = (folder / "config.json").read_text().rstrip().removesuffix("}")
    for depth in (300, 600, 900, 10**6):
        (folder / "config.json").write_text(f'{values}, "rope_scaling": {"[" * depth}{"]" * depth}}}')
        assert "config.json: not" in refusal(lambda: read_config(folder))


def test_a_table_that_is_computed_is_bounded_by_the_weights(tmp_path: Path) -> None:
    """GPT-J's table of rotations is not in its weights: 3 blocks of 10^9 positions of 4 numbers."""
    folder = tiny_model(tmp_path)
    edit_json(folder / "config.json", n_positions=10**9)
    assert "describes a model of 12,000,000,000 numbers" in refusal(lambda: load_causal_lm(folder, "float32"))
    edit_json(folder / "config.json", n_positions=4096)
    assert load_causal_lm(folder, "float32").config.n_positions == 4096


def test_a_model_of_more_parts_than_any_real_one_is_not_built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever number of config.json asks for the parts: building stops while it goes on."""
    assert load_causal_lm(folder, "float32").num_parameters() > 0
    monkeypatch.setattr(config_file, "MAX_OPERATIONS", 30)
    assert "(ValueError: it has more than 30 parts)" in refusal(lambda: load_causal_lm(folder, "float32"))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("kernel", ["flash_attention_2", "flash_attention_3", "kernels-community/flash-attn", "own", 5])
def test_the_kernel_for_attention_is_the_readers_affair(llama: Path, folder: Path, key: str, kernel: object) -> None:
    edit_json(folder / "config.json", **{key: kernel, "experts_implementation": "kernels-community/moe"})
    model = load_causal_lm(folder, "float32")
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(IDS).logits, load_causal_lm(llama, "float32")(IDS).logits)


@pytest.mark.parametrize(
    ("quantization", "kind"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "of\nits own"}, "'of\\nits own'"),
    ],
)
def test_quantized_weights_are_refused_by_their_kind(folder: Path, quantization: dict[str, object], kind: str) -> None:
    edit_json(folder / "config.json", quantization_config=quantization)
    told = refusal(lambda: load_causal_lm(folder, "float32"))
    assert f"the weights are quantized ({kind}), and training needs the unquantized model" in told


@pytest.mark.parametrize("pad", [328, -1, 10**6])
def test_a_pad_token_without_an_embedding_is_dropped(llama: Path, folder: Path, pad: int) -> None:
    edit_json(folder / "config.json", pad_token_id=pad)
    model = load_causal_lm(folder, "float32")
    assert model.config.pad_token_id is None
    assert model.get_input_embeddings().padding_idx is None  # with -1 the last row would never be trained
    assert torch.equal(model(IDS).logits, load_causal_lm(llama, "float32")(IDS).logits)


@pytest.mark.parametrize(
    "content",
    ["[]", "{", '{"temperature": "x"}', '{"num_beams": -5}', '{"eos_token_id": "x"}', '{"transformers_version": 5}',
     '{"temperature": 0.3, "do_sample": false, "cache_implementation": "x"}'],
)  # fmt: skip
def test_generation_settings_that_transformers_refuses_do_not_matter(folder: Path, content: str) -> None:
    (folder / "generation_config.json").write_text(content)
    read_model(folder, "float32", trains_reward_model=True)


def test_a_pipe_in_a_model_folder_keeps_nobody_waiting(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    os.mkfifo(folder / "generation_config.json")
    load_causal_lm(folder, "float32")
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert "config.json: missing" in refusal(lambda: load_causal_lm(folder, "float32"))


def test_generation_settings_that_can_be_read_are_kept(folder: Path) -> None:
    edit_json(folder / "generation_config.json", eos_token_id=[7, 8])
    assert load_causal_lm(folder, "float32").generation_config.eos_token_id == [7, 8]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 400) | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
KEYS = (
    "architectures", "attention_bias", "attention_dropout", "bos_token_id", "eos_token_id", "head_dim", "hidden_act",
    "hidden_size", "id2label", "intermediate_size", "max_position_embeddings", "mlp_bias", "model_type",
    "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "num_labels", "pad_token_id", "pretraining_tp",
    "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta", "tie_word_embeddings", "torch_dtype", "use_cache",
    "vocab_size", "quantization_config", "auto_map", "problem_type", "layer_types", "text_config", "is_decoder",
)  # fmt: skip


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(KEYS), JSON_VALUES, min_size=1, max_size=3))
def test_any_config_gives_a_model_or_one_line(llama: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    folder = tmp_path / "model"
    if not folder.is_dir():
        shutil.copytree(llama, folder)
    values = json.loads((llama / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(values))
    for load in (load_causal_lm, load_reward_model):
        told = ""
        try:
            load(folder, "float32")
        except UserError as error:
            told = str(error)
        assert "\n" not in told


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=40) | JSON_VALUES.map(json.dumps).map(str.encode))
def test_any_bytes_as_config_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    assert str(tmp_path / "config.json") in refusal(lambda: read_config(tmp_path))
