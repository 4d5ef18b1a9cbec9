"""Saved models load unchanged; folders without a complete model are errors."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.models.loading import load_causal_lm, load_reward_model, new_reward_model, save_model
from rlhf.models.tokenization import load_tokenizer
from tests.support.tiny_models import Architecture, tiny_model, tiny_tokenizer

IDS = torch.tensor([[5, 6, 7, 8]])
ARCHITECTURES = ["gptj", "gpt_neox", "llama", "gpt2", "qwen2"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_model_computes_the_same(tmp_path: Path, architecture: Architecture) -> None:
    base = tiny_model(tmp_path / "base", architecture)
    model = load_causal_lm(base, "float32")
    save_model(model, load_tokenizer(base), tmp_path / "copy")
    assert not model.training
    assert torch.equal(load_causal_lm(tmp_path / "copy", "float32")(IDS).logits, model(IDS).logits)
    assert load_causal_lm(tmp_path / "copy", "bfloat16").dtype == torch.bfloat16
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_new_reward_model_is_the_base_with_a_seeded_head(tmp_path: Path, architecture: Architecture) -> None:
    base = tiny_model(tmp_path, architecture)
    model, tokenizer = new_reward_model(base, "float32", seed=3)
    body = load_causal_lm(base, "float32").base_model
    expected, actual = body(IDS).last_hidden_state, model.base_model(IDS).last_hidden_state
    assert torch.equal(expected, actual)
    head = model.score.weight
    assert torch.equal(head, new_reward_model(base, "float32", seed=3)[0].score.weight)
    assert not torch.equal(head, new_reward_model(base, "float32", seed=4)[0].score.weight)
    assert float(head.detach().square().mean()) == pytest.approx(1 / 33, rel=0.5)
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_pad_token_of_a_reward_model_has_its_own_embedding_row(tmp_path: Path) -> None:
    full = tiny_model(tmp_path)
    tokenizer = load_tokenizer(full)
    tokenizer.add_tokens([f"<|extra_{number}|>" for number in range(8)])  # no unused row remains
    tokenizer.save_pretrained(full)
    model, padded = new_reward_model(full, "float32", seed=0)
    assert padded.pad_token_id == len(tokenizer) == model.get_input_embeddings().num_embeddings - 1


def test_a_tokenizer_without_pad_pads_with_eos_and_one_without_eos_is_an_error(tmp_path: Path) -> None:
    tiny_model(tmp_path)
    assert load_tokenizer(tmp_path).pad_token_id == load_tokenizer(tmp_path).eos_token_id
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    with pytest.raises(UserError, match="endless: the tokenizer has no EOS token"):
        load_tokenizer(tmp_path / "endless")


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer that transformers can load"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"config\.json: missing; give a folder as save_pretrained"):
        load_causal_lm(tmp_path, "float32")


def test_missing_weights_are_an_error_and_never_random(tmp_path: Path) -> None:
    base = tiny_model(tmp_path)
    with pytest.raises(UserError, match=r"1 tensors of the model are not in its weights: score\.weight"):
        load_reward_model(base, "float32")
    state = load_file(base / "model.safetensors")
    del state["transformer.h.1.mlp.fc_in.weight"]
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"not in its weights: transformer\.h\.1\.mlp\.fc_in\.weight"):
        load_causal_lm(base, "float32")


def test_another_classifier_is_not_a_reward_model(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="BertForSequenceClassification with 1 labels is not a reward model"):
        load_reward_model(tmp_path, "float32")


def test_a_failed_save_leaves_the_old_model_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model(tmp_path / "model", seed=1)
    before = (folder / "model.safetensors").read_bytes()
    model, tokenizer = load_causal_lm(tiny_model(tmp_path / "other", seed=2), "float32"), load_tokenizer(folder)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedTokenizerBase, "save_pretrained", full_disk)
        with pytest.raises(OSError, match="No space left"):
            save_model(model, tokenizer, folder)
    assert (folder / "model.safetensors").read_bytes() == before
    save_model(model, tokenizer, folder)
    assert (folder / "model.safetensors").read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "other"]


class TestPickles:
    """A GPT-J body and head in a pickle, as Dahoas/gptj-rm-static is."""

    @pytest.fixture
    def base(self, tmp_path: Path) -> Path:
        return tiny_model(tmp_path / "base")

    @pytest.fixture
    def state(self, base: Path) -> dict[str, torch.Tensor]:
        state = {
            name: tensor for name, tensor in load_file(base / "model.safetensors").items() if "lm_head" not in name
        }
        torch.manual_seed(0)
        state["v_head.weight"] = torch.randn(1, 32)
        state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 128, 128, dtype=torch.bool).tril()
        state["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e9)
        return state

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        (tmp_path / "published").mkdir()
        return tmp_path / "published"

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_scores_are_head_times_hidden_state(
        self, base: Path, state: dict[str, torch.Tensor], source: Path, dtype: torch.dtype
    ) -> None:
        torch.save({name: tensor.to(dtype) for name, tensor in state.items()}, source / "hf_ckpt.pt")
        hidden = load_causal_lm(base, "float32").base_model(IDS).last_hidden_state[0, -1]
        expected = hidden @ state["v_head.weight"][0]
        model = load_reward_model(source, "float32", base)
        torch.testing.assert_close(model(IDS).logits[0, 0], expected, atol=0.02, rtol=0)  # float16 rounds
        assert not model.training
        assert torch.equal(load_reward_model(source / "hf_ckpt.pt", "float32", base)(IDS).logits, model(IDS).logits)

    def test_a_configuration_next_to_the_pickle_is_used(
        self, base: Path, state: dict[str, torch.Tensor], source: Path
    ) -> None:
        torch.save(state, source / "hf_ckpt.pt")
        with pytest.raises(UserError, match=r"needs a GPT-J configuration; put GPT-J's config\.json next to it"):
            load_reward_model(source, "float32")
        shutil.copy(base / "config.json", source)
        load_reward_model(source, "float32")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"lm_head.weight": torch.ones(1)}, r"1 tensors unexpected: lm_head\.weight"),
            ({"v_head.weight": torch.ones(1, 31)}, r"of another shape than in the configuration: score\.weight"),
            ({"v_head.weight": None}, r"1 tensors missing: score\.weight"),
        ],
    )
    def test_tensors_must_be_exactly_those_of_the_model(
        self,
        base: Path,
        state: dict[str, torch.Tensor],
        source: Path,
        change: dict[str, torch.Tensor | None],
        message: str,
    ) -> None:
        changed = {name: tensor for name, tensor in (state | change).items() if tensor is not None}
        torch.save(changed, source / "hf_ckpt.pt")
        with pytest.raises(UserError, match=message):
            load_reward_model(source, "float32", base)

    def test_code_in_a_pickle_is_not_run(self, base: Path, source: Path) -> None:
        torch.save({"transformer.wte.weight": _RunsCode(source / "ran")}, source / "hf_ckpt.pt")
        with pytest.raises(UserError, match="without running code from it"):
            load_reward_model(source, "float32", base)
        assert not (source / "ran").exists()

    def test_several_pickles_are_ambiguous(self, base: Path, state: dict[str, torch.Tensor], source: Path) -> None:
        for name in ("a.pt", "b.bin"):
            torch.save(state, source / name)
        with pytest.raises(UserError, match=r"several checkpoints \(a\.pt, b\.bin\)"):
            load_reward_model(source, "float32", base)


class _RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)
