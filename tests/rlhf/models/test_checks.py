"""Architectures that a later stage could not use are told before the first one spends time on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CodeGenConfig,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    GraniteConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedConfig,
    RecurrentGemmaConfig,
    RwkvConfig,
)

from rlhf.config import JudgeConfig, ModelConfig, RewardConfig, RunConfig
from rlhf.errors import UserError
from rlhf.models.checks import read_model
from rlhf.stage_config import ModelStage, part_of
from tests.support.tiny_models import tiny_tokenizer

VOCABULARY: dict[str, Any] = {"vocab_size": 328, "bos_token_id": 0, "eos_token_id": 0}
SIZES: dict[str, Any] = VOCABULARY | {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}
STATE: dict[str, Any] = VOCABULARY | {"hidden_size": 32, "num_hidden_layers": 3}
OLD_SIZES: dict[str, Any] = VOCABULARY | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
SCALED = "are not its output layer times its last hidden state (it scales or caps them), as PPO computes them; use"
ONE_BY_ONE = "is another one token by token, as responses are drawn, than for the whole text; use"
UNUSABLE: dict[str, tuple[PreTrainedConfig, str]] = {
    "cohere": (CohereConfig(**SIZES), SCALED),
    "granite": (GraniteConfig(**SIZES, logits_scaling=8.0), SCALED),
    "gemma2": (Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.1), SCALED),
    "recurrent gemma": (
        RecurrentGemmaConfig(**STATE, num_attention_heads=4, lru_width=32, logits_soft_cap=0.1),
        SCALED,
    ),
    "mamba": (MambaConfig(**STATE, state_size=4), ONE_BY_ONE),
    "rwkv": (RwkvConfig(**STATE, attention_hidden_size=32), ONE_BY_ONE),
}


def write_model(folder: Path, config: PreTrainedConfig) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_model_whose_logits_the_engine_would_compute_otherwise_is_refused(tmp_path: Path, name: str) -> None:
    config, message = UNUSABLE[name]
    folder = write_model(tmp_path, config)
    for trains_reward_model in (True, False):
        with pytest.raises(UserError) as caught:
            read_model(folder, "float32", trains_reward_model=trains_reward_model)
        assert message in str(caught.value)
        assert str(folder) in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "config",
    [
        OPTConfig(**VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64),
        BloomConfig(**VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
        FalconConfig(**STATE, num_attention_heads=4),
        MistralConfig(**SIZES, sliding_window=4),
    ],
    ids=lambda config: config.model_type,
)
def test_models_that_the_engine_computes_as_they_are_pass(tmp_path: Path, config: PreTrainedConfig, dtype: Any) -> None:
    model, _ = read_model(write_model(tmp_path, config), dtype, trains_reward_model=True)
    assert str(model.dtype) == f"torch.{dtype}"


def test_a_base_of_which_no_reward_model_can_be_made_needs_a_finished_one(tmp_path: Path) -> None:
    folder = write_model(tmp_path, CodeGenConfig(**OLD_SIZES, rotary_dim=4))
    with pytest.raises(UserError, match=r"of a CodeGenForCausalLM .*; set reward\.path to a finished reward model"):
        read_model(folder, "float32", trains_reward_model=True)
    read_model(folder, "float32", trains_reward_model=False)


@pytest.mark.parametrize(
    ("changes", "trains"),
    [
        ({}, True),
        ({"reward": RewardConfig(path="rm")}, True),  # the judge
        ({"reward": RewardConfig(path="rm"), "judge": JudgeConfig(model=ModelConfig(path="base"))}, False),
        ({"judge": JudgeConfig(model=ModelConfig(path="base"))}, True),
    ],
)
def test_the_run_says_whether_a_reward_model_is_trained_from_the_base(changes: dict[str, Any], *, trains: bool) -> None:
    assert part_of(RunConfig(**changes), ModelStage).trains_reward_model is trains


def test_without_a_judge_a_finished_reward_model_is_enough() -> None:
    run = RunConfig.model_validate({"reward": {"path": "rm"}, "data": {"judge_share": 0}})
    assert part_of(run, ModelStage).trains_reward_model is False
