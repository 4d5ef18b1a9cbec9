"""Stage: train the SFT model by PPO against the reward model.

Inputs: `data`, `sft`, `reward`.  Outputs: `model/` (best validation score within the bounds of `ppo.selection`),
`metrics.jsonl` (a row per step), `validation.jsonl` (a row per validation), `validation_responses.jsonl` (a row per
validation and prompt) and `summary.json`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import PartialState
from transformers import PreTrainedModel

from rlhf.config import PpoConfig, require_multiple
from rlhf.models.loading import load_causal_lm, save_model
from rlhf.models.reward_model import RewardModel
from rlhf.models.sampling import require_prompts_fit
from rlhf.models.tokenization import load_tokenizer
from rlhf.runtime.distributed import barrier, init_distributed
from rlhf.runtime.seeds import derive_seed
from rlhf.runtime.stage import is_main_process, main
from rlhf.runtime.trackers import tracker_session
from rlhf.stage_config import PpoStage
from rlhf.training.ppo.context import PpoContext
from rlhf.training.ppo.device_memory import cache_bytes_per_token, kv_cache_budget, parameter_bytes
from rlhf.training.ppo.kl import KlController
from rlhf.training.ppo.loop import train
from rlhf.training.ppo.optimizer import Optimizer
from rlhf.training.ppo.policy import Policy, make_value_head
from rlhf.training.ppo.prompts import read_prompts
from rlhf.training.ppo.score_scaling import RunningStatistics
from rlhf.training.ppo.trunk import split_model


def train_ppo(config: PpoStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Train, and write the model with the best validation score within the bounds of `ppo.selection`."""
    processes = init_distributed()
    context = make_context(config, inputs, processes)
    with tracker_session(config):
        summary = train(context, output)
    if is_main_process():
        save_model(context.policy.model, context.tokenizer, output / "model")
    barrier()
    return {
        "first_score": summary.first,
        "best_score": summary.best,
        "last_score": summary.last,
        "best_step": summary.best_step,
    }


def make_context(config: PpoStage, inputs: dict[str, Path], processes: PartialState) -> PpoContext:
    """Load and check everything that the steps need.

    Raises UserError if the ranks cannot share rollouts and minibatches equally, or if a prompt fills the model's
    context.
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
    for prompt_set in (prompts, validation_prompts):
        require_prompts_fit(model, [prompt.token_ids for prompt in prompt_set])
    split = split_model(model, ppo.unfrozen_blocks)
    value_head = make_value_head(split.hidden_size, derive_seed(config.seed, "value head"))
    policy = Policy(model, split, value_head.to(model.device, model.dtype), ppo.sampling.temperature)
    optimizer = Optimizer(
        policy.trained_parameters,
        learning_rate=ppo.learning_rate,
        betas=ppo.adam_betas,
        weight_decay=ppo.weight_decay,
        max_gradient_norm=ppo.max_gradient_norm,
        rank=processes.process_index,
        world_size=processes.num_processes,
    )
    reference = (split.reference_top.module, split.reference_head)
    resident = parameter_bytes(model, policy.value_head, *reference, reward_model.model) + optimizer.state_bytes
    return PpoContext(
        config=ppo,
        stop_sequences=config.stop_sequences,
        seed=config.seed,
        policy=policy,
        optimizer=optimizer,
        tokenizer=tokenizer,
        reward_model=reward_model,
        prompts=prompts,
        validation_prompts=validation_prompts,
        kl_controller=KlController(ppo.kl_coefficient, ppo.kl_target, ppo.kl_horizon),
        score_statistics=RunningStatistics(),
        cache_bytes_per_token=cache_bytes_per_token(model),
        kv_cache_budget=kv_cache_budget(processes.device, weights=parameter_bytes(model), resident=resident),
        rank=processes.process_index,
        world_size=processes.num_processes,
    )


def require_equal_shares(config: PpoConfig, world_size: int) -> None:
    """Raise UserError unless the ranks can share rollouts and minibatches equally."""
    require_multiple("ppo.rollouts_per_step", config.rollouts_per_step, "ppo.minibatch_size", config.minibatch_size)
    require_multiple("ppo.minibatch_size", config.minibatch_size, "the number of processes", world_size)


if __name__ == "__main__":
    main(PpoStage, train_ppo)
