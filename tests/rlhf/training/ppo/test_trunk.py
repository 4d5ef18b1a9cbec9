"""A split model computes what the unsplit one does, for every supported architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    MistralConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from rlhf.errors import UserError
from rlhf.models.loading import load_causal_lm
from rlhf.training.ppo.losses import token_logprobs
from rlhf.training.ppo.policy import Policy, make_value_head
from rlhf.training.ppo.trunk import split_model
from tests.support.recomputed_ppo import run_trunk
from tests.support.tiny_models import LAYERS, WIDTH, Architecture, tiny_model

ARCHITECTURES: tuple[Architecture, ...] = ("gptj", "gpt_neox", "llama", "gpt2", "qwen2")
PROMPTS = [[5, 6, 7, 8], [9], [10, 11, 12, 13, 14, 15]]
RESPONSES = [[20, 21], [22, 23, 24, 0], [25]]
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}


def load(folder: Path, architecture: Architecture) -> PreTrainedModel:
    return load_causal_lm(tiny_model(folder, architecture), "float32")


def make(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


def policy_of(model: PreTrainedModel, unfrozen_blocks: int | Literal["all"]) -> Policy:
    return Policy(model, split_model(model, unfrozen_blocks), make_value_head(WIDTH, 0), 1.0)


def unsplit_logprobs(model: PreTrainedModel) -> Tensor:
    """Log-probabilities of the response tokens, each rollout alone through the unsplit model."""
    parts = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        parts.append(logits.log_softmax(-1)[range(len(response)), response])
    return torch.cat(parts)


def split_logprobs(policy: Policy) -> Tensor:
    batch = run_trunk(policy.split, PROMPTS, RESPONSES).batch([0, 1, 2])
    return token_logprobs(policy.predict(batch)[0], batch.token)


def gradients(loss: Tensor, policy: Policy) -> dict[str, Tensor]:
    parameters = policy.split.trained_parameters
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def assert_split_equals_unsplit(policy: Policy) -> None:
    logprob_T, expected_T = split_logprobs(policy), unsplit_logprobs(policy.model)
    torch.testing.assert_close(logprob_T, expected_T, rtol=0, atol=1e-5)
    weight_T = torch.linspace(-1, 1, len(logprob_T))
    expected = gradients((expected_T * weight_T).sum(), policy)
    for name, gradient in gradients((logprob_T * weight_T).sum(), policy).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-5, msg=name)
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("unfrozen_blocks", [1, 2, LAYERS, "all"])
def test_logprobs_and_gradients_equal_those_of_the_unsplit_model(
    tmp_path: Path, architecture: Architecture, unfrozen_blocks: int | Literal["all"]
) -> None:
    policy = policy_of(load(tmp_path, architecture), unfrozen_blocks)
    assert (policy.split.trunk is None) == (unfrozen_blocks == "all")
    assert_split_equals_unsplit(policy)


@pytest.mark.parametrize("unfrozen_blocks", [1, 2, LAYERS])
def test_the_last_block_runs_only_at_the_response(tmp_path: Path, unfrozen_blocks: int) -> None:
    """With the fast kernels its MLP sees only positions that predict response tokens; keys and values need all."""
    policy = policy_of(load(tmp_path, "gptj"), unfrozen_blocks)
    assert_split_equals_unsplit(policy)
    shapes: list[tuple[int, ...]] = []
    assert policy.split.top.last_block is not None
    policy.split.top.last_block.block.get_submodule("mlp").register_forward_pre_hook(
        lambda _module, inputs: shapes.append(inputs[0].shape)
    )
    split_logprobs(policy)
    assert shapes == [(sum(map(len, RESPONSES)), WIDTH)]


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SIZES, sliding_window=3),
        Qwen3Config(**SIZES, head_dim=8),
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=3, max_window_layers=1),
        Qwen2Config(**SIZES, tie_word_embeddings=True),
    ],
    ids=["mistral", "qwen3", "qwen2-sliding", "qwen2-tied"],
)
def test_related_architectures_are_split_too(config: PreTrainedConfig, capsys: pytest.CaptureFixture[str]) -> None:
    policy = policy_of(make(config), 2)
    assert policy.split.trunk is not None
    assert "@note" not in capsys.readouterr().out
    assert_split_equals_unsplit(policy)


def test_an_unknown_architecture_runs_unsplit_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 48}
    policy = policy_of(make(OPTConfig(**sizes, word_embed_proj_dim=32, max_position_embeddings=64)), 1)
    assert policy.split.trunk is None
    assert "opt models cannot be split" in capsys.readouterr().out
    assert_split_equals_unsplit(policy)
    trained = {name for name in policy.split.trained_parameters if "layers.2." not in name}
    assert trained == {"model.decoder.final_layer_norm.weight", "model.decoder.final_layer_norm.bias"}


def test_a_model_that_differs_once_it_is_split_runs_unsplit_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load(tmp_path, "llama")
    model.register_forward_hook(lambda _module, _inputs, output: setattr(output, "logits", output.logits * 1.001))
    assert split_model(model, 1).trunk is None
    assert "llama model differs once it is split" in capsys.readouterr().out


def test_trained_parameters(tmp_path: Path) -> None:
    """Top block, final norm and output layer; GPT-2 ties the latter to the embeddings, so there it is frozen."""
    untied = set(split_model(load(tmp_path / "a", "gptj"), 1).trained_parameters)
    assert {name for name in untied if not name.startswith("transformer.h.2.")} == {
        "transformer.ln_f.weight",
        "transformer.ln_f.bias",
        "lm_head.weight",
        "lm_head.bias",
    }
    tied = set(split_model(load(tmp_path / "b", "gpt2"), 1).trained_parameters)
    assert {name for name in tied if not name.startswith("transformer.h.2.")} == {
        "transformer.ln_f.weight",
        "transformer.ln_f.bias",
    }


@pytest.mark.parametrize("unfrozen_blocks", [1, LAYERS, "all"])
def test_the_reference_is_constant_while_the_policy_changes(
    tmp_path: Path, unfrozen_blocks: int | Literal["all"]
) -> None:
    policy = policy_of(load(tmp_path, "gptj"), unfrozen_blocks)

    def reference() -> Tensor:
        return policy.predict_reference(run_trunk(policy.split, PROMPTS, RESPONSES).batch([0, 1, 2]))

    before, policy_before = reference(), split_logprobs(policy).detach()
    with torch.no_grad():
        for parameter in policy.split.trained_parameters.values():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    assert torch.equal(reference(), before)
    assert (split_logprobs(policy) - policy_before).abs().max() > 0.1
    torch.testing.assert_close(split_logprobs(policy), unsplit_logprobs(policy.model), rtol=0, atol=1e-4)


def test_training_flops_by_hand(tmp_path: Path) -> None:
    """GPT-J of hidden size 32: a block has 12 x 32 x 32 weights, the head 328 x 32, the value head 64 x 32 + 64."""
    policy, heads = policy_of(load(tmp_path, "gptj"), 2), 328 * 32 + 64 * 32 + 64
    assert policy.training_flops(10, 4) == 6 * (2 * 12 * 32 * 32 * 10 + heads * 4)
    unsplit = policy_of(load(tmp_path / "all", "gptj"), "all")
    assert unsplit.training_flops(10, 4) == 6 * (LAYERS * 12 * 32 * 32 * 10 + heads * 4)


def test_only_response_tokens_reach_the_output_layer(tmp_path: Path) -> None:
    policy = policy_of(load(tmp_path, "gptj"), 1)
    lengths: list[int] = []
    policy.split.head.register_forward_pre_hook(lambda _module, inputs: lengths.append(inputs[0].shape[0]))
    split_logprobs(policy)
    assert lengths == [sum(map(len, RESPONSES))]


@pytest.mark.parametrize("unfrozen_blocks", [0, LAYERS + 1])
def test_unfrozen_blocks_out_of_range_are_an_error(tmp_path: Path, unfrozen_blocks: int) -> None:
    with pytest.raises(UserError, match=rf"unfrozen_blocks \({unfrozen_blocks}\) must be all or 1 to 3"):
        split_model(load(tmp_path, "gptj"), unfrozen_blocks)
