"""The fast kernels compute what transformers computes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import GPTJConfig, GPTJForCausalLM, PreTrainedModel

from rlhf.config import SamplingConfig
from rlhf.models.kernels import patch_fast_kernels
from rlhf.models.loading import load_causal_lm, save_model
from rlhf.models.sampling import generate
from rlhf.models.tokenization import load_tokenizer
from tests.support.tiny_models import tiny_model


def gptj(rotary_dim: int | None) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32}
    model: PreTrainedModel = GPTJForCausalLM(GPTJConfig(**sizes, rotary_dim=rotary_dim, initializer_range=0.2)).eval()
    return model


@pytest.mark.parametrize("rotary_dim", [4, 16])
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_logits_and_gradients_are_those_of_transformers(rotary_dim: int, padding: str) -> None:
    """With rotation of a part of each head, and of complete heads."""
    plain = gptj(rotary_dim)
    fast = patch_fast_kernels(copy.deepcopy(plain))
    ids = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if padding != "none":
        mask[1, slice(0, 3) if padding == "left" else slice(6, 9)] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    results = []
    for model in (plain, fast):
        logits = model(ids, attention_mask=mask, position_ids=positions).logits[mask.bool()]
        weights = torch.linspace(-1, 1, logits.numel()).view_as(logits)
        results.append((logits, torch.autograd.grad((logits * weights).sum(), list(model.parameters()))))
    (expected, expected_gradients), (logits, gradients) = results
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-4)


def test_responses_are_those_of_transformers(tmp_path: Path) -> None:
    """With a cache and padding on the left."""
    plain = GPTJForCausalLM.from_pretrained(tiny_model(tmp_path))
    fast, tokenizer = load_causal_lm(tmp_path, "float32"), load_tokenizer(tmp_path)
    assert type(fast.transformer.h[0].attn) is not type(plain.transformer.h[0].attn)
    prompts, sampling = [[5, 6, 7, 8], [9], [10, 11]], SamplingConfig(max_new_tokens=10)
    responses = [generate(model, tokenizer, prompts, sampling, [1, 2, 3], batch_size=3) for model in (plain, fast)]
    assert responses[0] == responses[1]


def test_dropout_is_applied_as_in_transformers() -> None:
    plain = gptj(4).train()
    for module in plain.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 1.0
    fast = patch_fast_kernels(copy.deepcopy(plain))
    ids = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fast(ids).logits, plain(ids).logits)
    for model in (plain, fast):
        for block in model.transformer.h:
            block.attn.resid_dropout.p = block.mlp.dropout.p = 0.0
        model.transformer.drop.p = 0.0
    torch.testing.assert_close(fast(ids).logits, plain(ids).logits)


def test_saved_files_are_the_same_with_fast_kernels(tmp_path: Path) -> None:
    plain = GPTJForCausalLM.from_pretrained(tiny_model(tmp_path / "plain"))
    fast, tokenizer = load_causal_lm(tmp_path / "plain", "float32"), load_tokenizer(tmp_path / "plain")
    save_model(plain, tokenizer, tmp_path / "before")
    save_model(fast, tokenizer, tmp_path / "after")
    for path in (tmp_path / "before").iterdir():
        assert (tmp_path / "after" / path.name).read_bytes() == path.read_bytes(), path.name
