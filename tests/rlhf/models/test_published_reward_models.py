"""Reward models in the layouts in which others publish them give the scores of their head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from rlhf.errors import UserError
from rlhf.models.loading import load_reward_model
from tests.support.model_folders import as_pickle, edit_json, edit_tensors, rename_tensors
from tests.support.tiny_models import tiny_tokenizer

IDS = torch.tensor([[5, 6, 7, 8]])


def write_reward_model(folder: Path, labels: int = 1) -> LlamaForSequenceClassification:
    """Write a Llama with a head of `labels` rows and its tokenizer; returns it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=328, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        num_labels=labels, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("head", ["score", "value_head"])
def test_a_head_of_one_row_needs_no_num_labels(tmp_path: Path, head: str, *, pickled: bool) -> None:
    """As OpenRLHF publishes them; without num_labels, transformers would give the model two outputs."""
    expected = write_reward_model(tmp_path)(IDS).logits
    rename_tensors(tmp_path, lambda name: name.replace("score.", f"{head}."))
    edit_json(tmp_path / "config.json", num_labels=None, id2label=None, label2id=None, value_head_prefix=head)
    if pickled:
        as_pickle(tmp_path)
        torch.save({"learning_rate": 1}, tmp_path / "training_args.bin")
    model = load_reward_model(tmp_path, "float32")
    assert torch.equal(model(IDS).logits, expected)
    assert model.config.num_labels == 1


def test_a_classifier_of_two_labels_is_no_reward_model(tmp_path: Path) -> None:
    write_reward_model(tmp_path, labels=2)
    with pytest.raises(UserError, match="LlamaForSequenceClassification with 2 labels is not a reward model"):
        load_reward_model(tmp_path, "float32")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("v", r"1 tensors of the model are not in its weights: score\.weight"),
        ("score", r"the tensor score\.weight has the shape \[1, 31\] in the weights, but \[1, 32\] by config\.json"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(tmp_path: Path, head: str, message: str) -> None:
    write_reward_model(tmp_path)
    edit_tensors(
        tmp_path, lambda tensors: tensors.update({f"{head}.weight": tensors.pop("score.weight")[:, :31].clone()})
    )
    with pytest.raises(UserError, match=message):
        load_reward_model(tmp_path, "float32")
