"""Model folders are converted for trlx, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlhf.errors import UserError
from rlhf.models.loading import load_causal_lm
from rlhf.models.tokenization import load_tokenizer
from rlhf.training.trlx_trainer.conversion import (
    WEIGHTS,
    convert_config,
    convert_for_trlx,
    convert_tokenizer_config,
    convert_vocabulary,
    read_tensors,
    write_trained_model,
)
from tests.support.tiny_models import tiny_model

HERE = Path("model")


def bpe(merges: list[Any]) -> dict[str, Any]:
    return {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": merges}}


def test_merges_become_lines() -> None:
    assert convert_vocabulary(bpe([["a", "b"], ["ab", "b"]]), HERE)["model"]["merges"] == ["a b", "ab b"]
    assert convert_vocabulary(bpe(["a b"]), HERE)["model"]["merges"] == ["a b"]
    words = {"model": {"type": "WordLevel", "vocab": {"a": 0}}}
    assert convert_vocabulary(words, HERE) == words


def test_merges_that_a_line_cannot_hold_are_rejected() -> None:
    with pytest.raises(UserError, match="merges pieces with spaces"):
        convert_vocabulary(bpe([["a ", "b"]]), HERE)


def test_special_tokens_are_named_and_pad_is_eos() -> None:
    words = {"bos_token": {"content": "<s>"}, "eos_token": "<e>", "backend": "tokenizers", "pad_token": None}
    old = convert_tokenizer_config(words)
    assert (old["bos_token"], old["eos_token"], old["pad_token"]) == ("<s>", "<e>", "<e>")
    assert "unk_token" not in old
    assert old["clean_up_tokenization_spaces"] is False  # spaces before punctuation are the model's own


def test_rotary_settings_get_their_old_names() -> None:
    rotation = {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5}
    old = convert_config({"model_type": "gpt_neox", "dtype": "bfloat16", "rope_parameters": rotation}, HERE)
    assert old == {"model_type": "gpt_neox", "rotary_emb_base": 5000.0, "rotary_pct": 0.5}
    with pytest.raises(UserError, match="rope_type"):
        convert_config({"model_type": "gpt_neox", "rope_parameters": {**rotation, "rope_type": "yarn"}}, HERE)


def test_an_untested_architecture_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="supports gptj, gpt2, gpt_neox, not llama"):
        convert_for_trlx(tiny_model(tmp_path / "llama", "llama"), tmp_path / "old")
    assert not (tmp_path / "old").exists()


def test_the_converted_model_has_all_tensors_in_plain_form(tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "source")
    convert_for_trlx(source, tmp_path / "old")
    kept = torch.load(tmp_path / "old" / WEIGHTS, weights_only=True)
    expected = load_file(source / "model.safetensors")
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in expected.items())
    assert isinstance(json.loads((tmp_path / "old" / "tokenizer.json").read_bytes())["model"]["merges"][0], str)


def test_trained_weights_come_back_in_our_layout(tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "source")
    trained = {name: tensor + 1 for name, tensor in read_tensors(source).items()} | {"extra.buffer": torch.ones(1)}
    write_trained_model(source, trained, tmp_path / "model")
    model = load_causal_lm(tmp_path / "model", "float32")
    assert all(torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())
    text = "\n\nHuman: How are you ?\n\nAssistant:"
    before, after = load_tokenizer(source), load_tokenizer(tmp_path / "model")
    assert before(text).input_ids == after(text).input_ids


def test_a_lost_tensor_is_noticed(tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "source")
    trained = read_tensors(source)
    trained.pop("lm_head.weight")
    with pytest.raises(AssertionError, match=r"lm_head\.weight"):
        write_trained_model(source, trained, tmp_path / "model")
    assert not (tmp_path / "model").exists()
