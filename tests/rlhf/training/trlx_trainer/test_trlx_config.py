"""Our settings converted to TRLConfig."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.config import PpoConfig, SamplingConfig, SftConfig
from rlhf.errors import UserError
from rlhf.profiles import load_profile
from rlhf.training.trlx_trainer.trlx_config import ppo_settings, sft_settings, updates_per_step

MODEL, CHECKPOINTS = Path("model"), Path("checkpoints")


def test_the_profile_of_the_published_recipe_is_its_trlx_configuration() -> None:
    profile = load_profile("gptj-6b-trlx")
    processes = profile.compute.processes
    assert (profile.trainer, processes) == ("trlx", 7)  # the reward model has the eighth GPU
    made = ppo_settings(
        profile.ppo, model=MODEL, checkpoints=CHECKPOINTS, prompt_tokens=384, processes=processes, seed=1
    )
    method, train = made["method"], made["train"]
    # examples/hh/ppo_hh.py of trlx, CONFIG_NAME=6B; per process
    assert (method["num_rollouts"], method["chunk_size"], method["ppo_epochs"]) == (64, 16, 4)
    assert (method["init_kl_coef"], method["target"], method["horizon"]) == (0.05, 6, 10_000)
    assert (method["gamma"], method["lam"], method["vf_coef"]) == (1, 0.95, 1)
    assert (method["cliprange"], method["cliprange_value"], method["cliprange_reward"]) == (0.2, 0.2, 10)
    assert method["scale_reward"] == "running"
    drawn = {"max_new_tokens": 128, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "do_sample": True}
    assert method["gen_kwargs"] == drawn
    assert (train["batch_size"], train["seq_length"]) == (4, 512)
    assert train["total_steps"] == 6016  # 94 rounds of 64; published 6,000
    assert made["model"]["num_layers_unfrozen"] == 2
    assert made["optimizer"] == {
        "name": "adamw",
        "kwargs": {"lr": 8e-6, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 1e-6},
    }
    assert made["scheduler"]["kwargs"]["eta_min"] == 8e-6  # constant
    assert made["tokenizer"] == {"tokenizer_path": "model", "padding_side": "left", "truncation_side": "left"}


def test_steps_become_optimizer_steps() -> None:
    ppo = PpoConfig(steps=3, rollouts_per_step=8, minibatch_size=4, epochs=2, validate_every=2, checkpoint_every=3)
    assert updates_per_step(ppo) == 4
    train = ppo_settings(ppo, model=MODEL, checkpoints=CHECKPOINTS, prompt_tokens=5, processes=1, seed=1)["train"]
    assert (train["total_steps"], train["eval_interval"], train["checkpoint_interval"]) == (12, 8, 12)
    assert train["seq_length"] == 5 + 128


def test_disabled_settings_stay_disabled() -> None:
    ppo = PpoConfig(kl_target=None, scale_scores=False, sampling=SamplingConfig(temperature=0.5))
    method = ppo_settings(ppo, model=MODEL, checkpoints=CHECKPOINTS, prompt_tokens=5, processes=1, seed=1)["method"]
    assert (method["target"], method["scale_reward"]) == (None, "ignored")
    assert (method["gen_kwargs"]["temperature"], method["gen_kwargs"]["top_k"]) == (0.5, 0)


def test_unsupported_settings_are_rejected() -> None:
    def convert(ppo: PpoConfig) -> None:
        ppo_settings(ppo, model=MODEL, checkpoints=CHECKPOINTS, prompt_tokens=5, processes=1, seed=1)

    with pytest.raises(UserError, match="reference model is wrong"):
        convert(PpoConfig(unfrozen_blocks="all"))
    with pytest.raises(UserError, match=r"multiple of ppo\.rollout_batch_size \(48\).*try 32"):
        convert(PpoConfig(rollouts_per_step=64, minibatch_size=4, rollout_batch_size=48))


def test_the_sft_batch_is_split_over_ranks() -> None:
    sft = SftConfig(batch_size=8, device_batch_size=2, learning_rate=1e-3, checkpoint_every=7)
    made = sft_settings(sft, model=MODEL, checkpoints=CHECKPOINTS, tokens=99, steps=20, processes=2, seed=1)
    train = made["train"]
    assert (train["batch_size"], train["minibatch_size"]) == (4, 2)
    assert (train["seq_length"], train["total_steps"], train["eval_interval"]) == (99, 20, 7)
    assert made["scheduler"]["kwargs"] == {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 20}
