"""Weights in the layouts that are around: the good ones give the same logits, the others are one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlhf.errors import UserError
from rlhf.models.loading import load_causal_lm
from rlhf.models.weight_files import find_weights
from tests.support.model_folders import (
    PICKLE,
    WEIGHTS,
    as_pickle,
    edit_json,
    edit_tensors,
    rename_tensors,
    write_safetensors,
)

IDS = torch.tensor([[5, 6, 7, 8]])
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
INDEX = f"{WEIGHTS}.index.json"


def tie(folder: Path) -> None:
    """Make the output layer that of the embeddings, and leave it out of the file."""

    def drop_head(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[HEAD]

    edit_tensors(folder, drop_head)
    edit_json(folder / "config.json", tie_word_embeddings=True)


def shard_pickle(folder: Path) -> None:
    """Two shards, their index, and the settings of transformers' Trainer beside them."""
    tensors = load_file(folder / WEIGHTS)
    names, files = sorted(tensors), ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    for part, file in enumerate(files):
        torch.save({name: tensors[name] for name in names[part::2]}, folder / file)
    weight_map = {name: files[index % 2] for index, name in enumerate(names)}
    (folder / f"{PICKLE}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    torch.save({"learning_rate": 1}, folder / "training_args.bin")
    (folder / WEIGHTS).unlink()


GOOD: dict[str, Callable[[Path], object]] = {
    "pickle": as_pickle,
    "pickle of torch before 1.6": lambda folder: as_pickle(folder, zipped=False),
    "sharded pickle beside training_args.bin": shard_pickle,
    "saved from a model of torch.compile": lambda folder: rename_tensors(folder, lambda name: f"_orig_mod.{name}"),
    "saved from both wrappers": lambda folder: rename_tensors(folder, lambda name: f"module._orig_mod.{name}"),
    "a head of its own although config.json ties it": lambda folder: edit_json(
        folder / "config.json", tie_word_embeddings=True
    ),
}


@pytest.mark.parametrize("layout", GOOD)
def test_a_good_layout_gives_the_same_logits(llama: Path, folder: Path, layout: str) -> None:
    GOOD[layout](folder)
    model = load_causal_lm(folder, "float32")
    assert torch.equal(model(IDS).logits, AutoModelForCausalLM.from_pretrained(llama)(IDS).logits)
    assert model.config.tie_word_embeddings is False


def test_a_tied_head_needs_no_tensor(folder: Path) -> None:
    tie(folder)
    model = load_causal_lm(folder, "float32")
    assert torch.equal(model.lm_head.weight, load_file(folder / WEIGHTS)[EMBEDDING])
    assert model.config.tie_word_embeddings is True


def more_rows(tensors: dict[str, torch.Tensor]) -> None:
    for name in (HEAD, EMBEDDING):
        tensors[name] = torch.cat([tensors[name], tensors[name][:64]])


def write_index(folder: Path, content: object) -> None:
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(json.dumps(content))


def header(**offsets: list[int]) -> bytes:
    """A header of tensors of two numbers at these places."""
    tensors = {name: {"dtype": "F32", "shape": [2], "data_offsets": span} for name, span in offsets.items()}
    return json.dumps(tensors).encode()


def make_adapter(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/base"}')


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "more embeddings than config.json says": (
        lambda folder: edit_tensors(folder, more_rows),
        "the tensor lm_head.weight has the shape [392, 32] in the weights, but [328, 32] by config.json",
    ),
    "the same in a pickle": (
        lambda folder: as_pickle(edit_tensors(folder, more_rows)),
        "the tensor lm_head.weight has the shape [392, 32] in the weights, but [328, 32] by config.json",
    ),
    "no output layer": (
        lambda folder: edit_tensors(folder, lambda tensors: tensors.pop(HEAD)),
        "1 tensors of the model are not in its weights: lm_head.weight",
    ),
    "another model": (
        lambda folder: rename_tensors(folder, lambda name: f"other.{name}"),
        "27 tensors of blocks have no place in the model that config.json describes: other.model.layers.0",
    ),
    "more blocks than config.json says": (
        lambda folder: edit_json(folder / "config.json", num_hidden_layers=2),
        "9 tensors of blocks have no place in the model that config.json describes: model.layers.2.input_layernorm",
    ),
    "an adapter alone": (make_adapter, "adapter_config.json: an adapter, which is not read; merge it"),
    "quantized without saying so": (
        lambda folder: rename_tensors(folder, lambda name: name.replace("q_proj.weight", "q_proj.qweight")),
        "the weights are quantized ('model.layers.0.self_attn.q_proj.qweight' of type F32)",
    ),
    "integers": (
        lambda folder: edit_tensors(folder, lambda tensors: tensors.update({HEAD: tensors[HEAD].to(torch.int8)})),
        "the weights are quantized ('lm_head.weight' of type I8)",
    ),
    "a header of absurd length": (
        lambda folder: (folder / WEIGHTS).write_bytes((2**62).to_bytes(8, "little") + b"{}"),
        "safetensors are damaged (SafetensorError: Error while deserializing header: header too large)",
    ),
    "overlapping tensors": (
        lambda folder: write_safetensors(folder / WEIGHTS, header(a=[0, 8], b=[4, 12]), bytes(12)),
        "safetensors are damaged (SafetensorError: Error while deserializing header: invalid offset",
    ),
    "no tensors": (lambda folder: write_safetensors(folder / WEIGHTS, b"{}"), "no tensors in model.safetensors"),
    "a pickle of a list": (
        lambda folder: torch.save([1], as_pickle(folder)),
        "pytorch_model.bin is damaged, of another model, or contains more than tensors",
    ),
    "a pickle of numbers": (
        lambda folder: torch.save({"a": 1}, as_pickle(folder)),
        "pytorch_model.bin is damaged, of another model, or contains more than tensors",
    ),
    "a shard in another folder": (
        lambda folder: write_index(folder, {"weight_map": {"a": "../x.safetensors"}}),
        "the shard '../x.safetensors' is not the plain name of a .safetensors file in this folder",
    ),
    "a shard by its absolute path": (
        lambda folder: write_index(folder, {"weight_map": {"a": "/x.safetensors"}}),
        "the shard '/x.safetensors' is not the plain name",
    ),
    "a pickle as a shard of safetensors": (
        lambda folder: write_index(folder, {"weight_map": {"a": "x.bin"}}),
        "the shard 'x.bin' is not the plain name of a .safetensors file",
    ),
    "a shard that is a number": (
        lambda folder: write_index(folder, {"weight_map": {"a": 5, "b": "x.safetensors"}}),
        "not an index of shards",
    ),
    "an index of nothing": (lambda folder: write_index(folder, {"weight_map": {}}), "not an index of shards"),
    "an index that is a list": (lambda folder: write_index(folder, []), "not an index of shards"),
    "a missing shard": (
        lambda folder: write_index(folder, {"weight_map": {"a": "x.safetensors"}}),
        "1 of 1 shards are missing (x.safetensors); copy them",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_layout_is_one_line_and_never_a_random_tensor(folder: Path, fault: str) -> None:
    inflict, message = BAD[fault]
    inflict(folder)
    with pytest.raises(UserError) as caught:
        load_causal_lm(folder, "float32")
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shard_outside_is_not_even_looked_at(folder: Path) -> None:
    """It exists, so that only its name is wrong."""
    shutil.move(folder / WEIGHTS, folder.parent / "x.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {HEAD: "../x.safetensors"}}))
    with pytest.raises(UserError, match="is not the plain name"):
        find_weights(folder)


def test_shards_that_are_links_are_read_as_in_a_cache_of_the_hub(llama: Path, folder: Path) -> None:
    shard = "model-00001-of-00001.safetensors"
    (folder.parent / "blob").write_bytes((folder / WEIGHTS).read_bytes())
    (folder / WEIGHTS).unlink()
    (folder / shard).symlink_to("../blob")
    names = dict.fromkeys(load_file(llama / WEIGHTS), shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert torch.equal(load_causal_lm(folder, "float32")(IDS).logits, load_causal_lm(llama, "float32")(IDS).logits)


JSON_VALUES = st.recursive(
    st.none() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
TENSORS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I8", "F4", "BOOL", 3]),
        "shape": st.lists(st.integers(0, 2**64), max_size=3),
        "data_offsets": st.lists(st.integers(0, 2**64), min_size=1, max_size=3),
    }
)
HEADERS = st.binary(max_size=60) | st.dictionaries(st.text(max_size=5), TENSORS | JSON_VALUES, max_size=3).map(
    lambda values: json.dumps(values).encode()
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=HEADERS, data=st.binary(max_size=16), length=st.none() | st.integers(0, 2**64 - 1))
def test_any_header_of_safetensors_is_one_line_or_tensors(
    tmp_path: Path, content: bytes, data: bytes, length: int | None
) -> None:
    prefix = (len(content) if length is None else length).to_bytes(8, "little")
    (tmp_path / WEIGHTS).write_bytes(prefix + content + data)
    told = ""
    try:
        find_weights(tmp_path).read_headers()
    except UserError as error:
        told = str(error)
    assert "\n" not in told


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=40) | JSON_VALUES.map(lambda value: json.dumps({"weight_map": value}).encode()))
def test_any_index_of_shards_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / INDEX).write_bytes(content)
    with pytest.raises(UserError) as caught:
        find_weights(tmp_path)
    assert "\n" not in str(caught.value)
