"""Convert our settings to trlx's TRLConfig, as plain values for `TRLConfig.from_dict`.

Without a counterpart in trlx: `sft.warmup_steps`, `ppo.missing_eos_penalty`, and `ppo.max_gradient_norm`, which
DeepSpeed's configuration sets.
trlx counts per rank what we count over all ranks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf.config import PpoConfig, SftConfig
from rlhf.errors import UserError

ADAM_EPSILON = 1e-8


def ppo_settings(
    ppo: PpoConfig, *, model: Path, checkpoints: Path, prompt_tokens: int, processes: int, seed: int
) -> dict[str, Any]:
    """TRLConfig of a PPO run on prompts of at most `prompt_tokens`.

    Raises UserError if trlx does not support the settings.
    """
    if ppo.unfrozen_blocks == "all":
        raise UserError(
            "ppo.unfrozen_blocks (all): trlx's reference model is wrong with it; set a number of blocks, "
            "or set trainer to own"
        )
    rollouts, chunk = ppo.rollouts_per_step // processes, chunk_size(ppo, processes)
    if rollouts % chunk:
        raise UserError(
            f"ppo.rollouts_per_step ({ppo.rollouts_per_step}) over {processes} processes must be a multiple of "
            f"ppo.rollout_batch_size ({chunk}), which trlx draws at once; try {_largest_divisor(rollouts, chunk)}"
        )
    updates = updates_per_step(ppo)
    return {
        "method": {
            "name": "PPOConfig",
            "ppo_epochs": ppo.epochs,
            "num_rollouts": rollouts,
            "chunk_size": chunk,
            "init_kl_coef": ppo.kl_coefficient,
            "target": ppo.kl_target,
            "horizon": ppo.kl_horizon,
            "gamma": ppo.discount,
            "lam": ppo.gae_lambda,
            "cliprange": ppo.policy_clip,
            "cliprange_value": ppo.value_clip,
            "vf_coef": ppo.value_coefficient,
            "scale_reward": "running" if ppo.scale_scores else "ignored",
            "ref_mean": None,
            "ref_std": None,
            "cliprange_reward": ppo.score_clip,
            "gen_kwargs": {
                "max_new_tokens": ppo.sampling.max_new_tokens,
                "temperature": ppo.sampling.temperature,
                "top_k": ppo.sampling.top_k,
                "top_p": ppo.sampling.top_p,
                "do_sample": True,
            },
        },
        "model": {"model_path": str(model), "num_layers_unfrozen": ppo.unfrozen_blocks},
        "tokenizer": _tokenizer(model),
        "optimizer": _optimizer(ppo.learning_rate, ppo.weight_decay, ppo.adam_betas),
        # a cosine from the learning rate to the same learning rate: constant, as published
        "scheduler": {
            "name": "cosine_annealing",
            "kwargs": {"T_max": ppo.steps * updates, "eta_min": ppo.learning_rate},
        },
        "train": _train(
            "PpoTrainer",
            seq_length=prompt_tokens + ppo.sampling.max_new_tokens,
            batch_size=ppo.minibatch_size // processes,
            epochs=ppo.steps,
            total_steps=ppo.steps * updates,
            eval_interval=ppo.validate_every * updates,
            checkpoint_interval=ppo.checkpoint_every * updates,
            checkpoints=checkpoints,
            seed=seed,
        ),
    }


def sft_settings(
    sft: SftConfig, *, model: Path, checkpoints: Path, tokens: int, steps: int, processes: int, seed: int
) -> dict[str, Any]:
    """TRLConfig of `steps` optimizer steps of SFT on samples of at most `tokens` tokens."""
    batch_size = sft.batch_size // processes
    return {
        "method": {"name": "SFTConfig", "gen_kwargs": {"max_new_tokens": 1}},
        "model": {"model_path": str(model), "num_layers_unfrozen": -1},
        # with padding on the left, GPT-2's learned positions would be shifted, since trlx sets none in SFT
        "tokenizer": {**_tokenizer(model), "padding_side": "right"},
        "optimizer": _optimizer(sft.learning_rate, sft.weight_decay, (0.9, 0.999)),
        "scheduler": {"name": "linear", "kwargs": {"start_factor": 1.0, "end_factor": 0.0, "total_iters": steps}},
        "train": _train(
            "SftTrainer",
            seq_length=tokens,
            batch_size=batch_size,
            minibatch_size=min(sft.device_batch_size, batch_size),
            epochs=steps,
            total_steps=steps,
            eval_interval=sft.checkpoint_every,
            checkpoint_interval=sft.checkpoint_every,
            checkpoints=checkpoints,
            seed=seed,
        ),
    }


def chunk_size(ppo: PpoConfig, processes: int) -> int:
    """Number of prompts to which one rank of trlx responds at once."""
    return min(ppo.rollout_batch_size, ppo.rollouts_per_step // processes)


def updates_per_step(ppo: PpoConfig) -> int:
    """Optimizer steps per PPO step."""
    return ppo.epochs * ppo.rollouts_per_step // ppo.minibatch_size


def _largest_divisor(number: int, limit: int) -> int:
    return next(size for size in range(limit, 0, -1) if number % size == 0)


def _tokenizer(model: Path) -> dict[str, Any]:
    return {"tokenizer_path": str(model), "padding_side": "left", "truncation_side": "left"}


def _optimizer(learning_rate: float, weight_decay: float, betas: tuple[float, float]) -> dict[str, Any]:
    settings = {"lr": learning_rate, "betas": list(betas), "eps": ADAM_EPSILON, "weight_decay": weight_decay}
    return {"name": "adamw", "kwargs": settings}


def _train(trainer: str, *, checkpoints: Path, **sizes: int) -> dict[str, Any]:
    return {
        **sizes,
        "trainer": trainer,
        "pipeline": "PromptPipeline",
        "checkpoint_dir": str(checkpoints),
        "save_best": False,  # our trainer saves the best, by validation prompts
        "tracker": None,  # our trainer writes the metrics
    }
