"""Stage: train the SFT model by PPO against the reward model.

Takes `data`, `sft` and `reward`; makes `model/` (the best by validation score), `metrics.jsonl` (a row per step),
`validation.jsonl` (a row per measurement) and `summary.json`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import PartialState
from transformers import PreTrainedModel

from rlhf.config import PpoConfig
from rlhf.errors import UserError
from rlhf.models.loading import load_causal_lm, save_model
from rlhf.models.reward_model import RewardModel
from rlhf.models.sampling import require_room
from rlhf.models.tokenization import load_tokenizer
from rlhf.runtime.distributed import start_processes, wait_for_all
from rlhf.runtime.seeds import row_seed
from rlhf.runtime.stage import is_main_process, main
from rlhf.runtime.trackers import tracked
from rlhf.stage_config import PpoStage
from rlhf.training.ppo.context import Run
from rlhf.training.ppo.device_memory import cache_bytes_per_token, cache_room, parameter_bytes
from rlhf.training.ppo.kl import KlController
from rlhf.training.ppo.loop import train
from rlhf.training.ppo.optimizer import Optimizer
from rlhf.training.ppo.policy import Policy, make_value_head
from rlhf.training.ppo.prompts import read_prompts
from rlhf.training.ppo.score_scaling import RunningMoments
from rlhf.training.ppo.trunk import split_model


def body(config: PpoStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Train and write the best model."""
    processes = start_processes()
    run = make_run(config, inputs, processes)
    with tracked(config):
        state = train(run, output)
    if is_main_process():
        save_model(run.policy.model, run.tokenizer, output / "model")
    wait_for_all()
    return {
        "first_score": state.first.score,
        "best_score": state.best.score,
        "last_score": state.last.score,
        "best_step": state.best.step,
    }


def make_run(config: PpoStage, inputs: dict[str, Path], processes: PartialState) -> Run:
    """Load and check everything that the steps need.

    Raises UserError where the batches do not divide by the processes, or a prompt leaves no room for an answer.
    """
    ppo, folder = config.ppo, inputs["sft"] / "model"
    require_equal_shares(ppo, processes.num_processes)
    if processes.device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
    tokenizer = load_tokenizer(folder)
    chosen_scores = inputs["reward"] / "chosen_scores.jsonl" if ppo.subtract_chosen_score else None
    prompts = read_prompts(inputs["data"], "ppo_prompts.jsonl", tokenizer, chosen_scores)
    validation_prompts = read_prompts(inputs["data"], "validation_prompts.jsonl", tokenizer, chosen_scores)
    model: PreTrainedModel = load_causal_lm(folder, config.model.dtype).to(processes.device).eval()
    reward_model = RewardModel.load(inputs["reward"] / "model", config.model.dtype, processes.device)
    for given in (prompts, validation_prompts):
        require_room(model, [prompt.token_ids for prompt in given])
    split = split_model(model, ppo.unfrozen_blocks)
    value_head = make_value_head(split.width, row_seed(config.seed, "value head")).to(model.device, model.dtype)
    policy = Policy(model, split, value_head, ppo.sampling.temperature)
    optimizer = Optimizer(
        policy.trained,
        learning_rate=ppo.learning_rate,
        betas=ppo.adam_betas,
        weight_decay=ppo.weight_decay,
        max_gradient_norm=ppo.max_gradient_norm,
        process=processes.process_index,
        processes=processes.num_processes,
    )
    reference = (split.reference_top.backbone, split.reference_head)
    standing = parameter_bytes(model, value_head, *reference, reward_model.model) + optimizer.bytes
    return Run(
        config=ppo,
        seed=config.seed,
        policy=policy,
        optimizer=optimizer,
        tokenizer=tokenizer,
        reward_model=reward_model,
        prompts=prompts,
        validation_prompts=validation_prompts,
        kl=KlController(ppo.kl_coefficient, ppo.kl_target, ppo.kl_horizon),
        scores=RunningMoments(),
        cache_token_bytes=cache_bytes_per_token(model),
        cache_room=cache_room(processes.device, weights=parameter_bytes(model), standing=standing),
        process=processes.process_index,
        processes=processes.num_processes,
    )


def require_equal_shares(config: PpoConfig, processes: int) -> None:
    """Raise UserError where a step or a minibatch cannot be shared out equally."""
    for name, value, divisor_name, divisor in (
        ("ppo.rollouts_per_step", config.rollouts_per_step, "ppo.minibatch_size", config.minibatch_size),
        ("ppo.minibatch_size", config.minibatch_size, "the number of processes", processes),
    ):
        if value % divisor:
            nearest = max(1, value // divisor) * divisor
            raise UserError(f"{name} ({value}) must be a multiple of {divisor_name} ({divisor}); try {nearest}")


if __name__ == "__main__":
    main(PpoStage, body)
