"""One step of PPO: generate responses, score and evaluate them, train on them.

N rollouts of this rank, R response tokens padded on the right, T response tokens of a minibatch flattened,
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf.config import PpoConfig
from rlhf.errors import UserError
from rlhf.models.sampling import Response
from rlhf.runtime.distributed import all_reduce_sum
from rlhf.runtime.seeds import derive_seed
from rlhf.runtime.throughput import throughput_metrics
from rlhf.training.ppo.advantages import estimate_advantages, shape_rewards, whiten
from rlhf.training.ppo.context import PpoContext
from rlhf.training.ppo.kl import response_kl
from rlhf.training.ppo.losses import ppo_loss, token_logprobs
from rlhf.training.ppo.metrics import (
    PhaseTimer,
    all_reduce_means,
    explained_variance,
    model_flops_utilization,
    response_metric_sums,
)
from rlhf.training.ppo.optimizer import Optimizer
from rlhf.training.ppo.policy import Policy
from rlhf.training.ppo.prompts import Prompt, prompt_indices
from rlhf.training.ppo.rollout import OldOutputs, Rollouts, evaluate_rollouts, minibatch_rows
from rlhf.training.ppo.score_scaling import penalize_cut, scale_scores

Minibatches = list[list[int]]


class KlLimitError(Exception):
    """The mean KL of a step's rollouts exceeds `ppo.max_kl`; the step has not trained on them."""

    def __init__(self, kl: float) -> None:
        super().__init__(f"KL {kl:g} nats per response")
        self.kl = kl


class TrainStats(NamedTuple):
    """Means over the minibatches of a step."""

    policy_loss: float
    value_loss: float
    policy_clip_fraction: float
    value_clip_fraction: float
    gradient_norm: float


def run_step(context: PpoContext, step: int) -> dict[str, float]:
    """Run `step` (from 1) and return its row of metrics.

    Raises KlLimitError before any training if the KL of the rollouts exceeds `ppo.max_kl`, and UserError if the KL or
    a loss is not finite.  After a loss that is not finite the weights are invalid; the last checkpoint is good.
    """
    config, timer = context.config, PhaseTimer(context.device)
    kl_coefficient = context.kl_controller.coefficient
    prompts, seeds = draw_prompts(context, step)
    epochs = [draw_minibatches(context, step, epoch) for epoch in range(config.epochs)]

    with timer.phase("generate"):
        responses = context.generate(prompts, seeds)
    with timer.phase("score"):
        raw_score_N = context.score(prompts, responses)
    with timer.phase("evaluate"):
        rollouts = context.pack_rollouts(prompts, responses)
        old = evaluate_rollouts(context.policy, rollouts, epochs[0])
    with timer.phase("train"):
        ended = [response.stopped for response in responses]
        score_N = penalize_cut(raw_score_N, ended, config.missing_eos_penalty)
        score_N = scale_scores(score_N, context.score_statistics, clip=config.score_clip, scale=config.scale_scores)
        reward_NR = shape_rewards(
            score_N, old.logprob, old.reference_logprob, rollouts.mask, kl_coefficient=kl_coefficient
        )
        advantage_NR, return_NR = whitened_advantages(reward_NR, old.value, rollouts.mask, config)
        metrics = rollout_metrics(rollouts, responses, raw_score_N, reward_NR, return_NR, old=old)
        check_kl(metrics["kl"], config.max_kl, step)
        stats = train_on_minibatches(
            context.policy,
            context.optimizer,
            [rows for minibatches in epochs for rows in minibatches],
            rollouts=rollouts,
            old=old,
            advantage_NR=advantage_NR,
            return_NR=return_NR,
            config=config,
        )
    check_finite(stats, step)
    context.kl_controller.update(metrics["kl"], config.rollouts_per_step)

    throughput = throughput_metrics(
        timer.seconds,
        response_tokens=metrics["response_tokens"] * config.rollouts_per_step,
        sequence_tokens=metrics["sequence_tokens"] * config.rollouts_per_step,
        epochs=config.epochs,
        rollouts=config.rollouts_per_step,
    )
    utilization = utilization_metrics(context, timer.seconds["train"], metrics)
    return {
        "step": step,
        **metrics,
        "kl_coefficient": kl_coefficient,
        **stats._asdict(),
        **throughput,
        **utilization,
    }


def draw_prompts(context: PpoContext, step: int) -> tuple[list[Prompt], list[int]]:
    """This rank's prompts of the step, and the seeds of their responses."""
    indices = prompt_indices(step, context.config.rollouts_per_step, len(context.prompts), context.seed)
    rollouts = context.shard(len(indices))
    seeds = [derive_seed(context.seed, "rollout", str(step), str(rollout)) for rollout in rollouts]
    return [context.prompts[indices[rollout]] for rollout in rollouts], seeds


def draw_minibatches(context: PpoContext, step: int, epoch: int) -> Minibatches:
    """This rank's part of an epoch's minibatches."""
    config = context.config
    slots = context.shard(config.minibatch_size)
    seeds = [derive_seed(context.seed, "minibatches", str(step), str(epoch), str(slot)) for slot in slots]
    return minibatch_rows(config.rollouts_per_step // config.minibatch_size, seeds)


def whitened_advantages(
    reward_NR: Tensor, value_NR: Tensor, mask_NR: Tensor, config: PpoConfig
) -> tuple[Tensor, Tensor]:
    """Advantages, whitened over all tokens of the step, and returns; both [N, R]."""
    advantage_NR, return_NR = estimate_advantages(
        reward_NR, value_NR, mask_NR, discount=config.discount, gae_lambda=config.gae_lambda
    )
    whitened_NR = torch.zeros_like(advantage_NR)
    whitened_NR[mask_NR] = whiten(advantage_NR[mask_NR])
    return whitened_NR, return_NR


def train_on_minibatches(
    policy: Policy,
    optimizer: Optimizer,
    minibatches: Minibatches,
    *,
    rollouts: Rollouts,
    old: OldOutputs,
    advantage_NR: Tensor,
    return_NR: Tensor,
    config: PpoConfig,
) -> TrainStats:
    """Take one optimizer step on each minibatch, in order."""
    length_N = rollouts.mask.sum(1).tolist()
    tokens = torch.tensor([sum(length_N[row] for row in rows) for rows in minibatches], dtype=torch.float64)
    sums = torch.zeros(len(TrainStats._fields), device=rollouts.mask.device)
    for rows, token_count in zip(minibatches, all_reduce_sum(tokens).tolist(), strict=True):
        batch = rollouts.batch(rows)
        logits_TV, value_T = policy.predict(batch)
        logprob_T = token_logprobs(logits_TV, batch.token)
        del logits_TV  # the largest tensor; the gradient does not need it
        loss = ppo_loss(
            logprob_T,
            value_T,
            old_logprob_T=rollouts.flatten(old.logprob, rows),
            old_value_T=rollouts.flatten(old.value, rows),
            advantage_T=rollouts.flatten(advantage_NR, rows),
            return_T=rollouts.flatten(return_NR, rows),
            policy_clip=config.policy_clip,
            value_clip=config.value_clip,
            value_coefficient=config.value_coefficient,
            token_count=token_count,
        )
        torch.autograd.backward(loss.total)
        gradient_norm = optimizer.step()
        sums += torch.stack([*loss[1:], gradient_norm])
    # losses are this rank's share of the minibatch; the gradient norm is the same on every rank
    totals = [*all_reduce_sum(sums[:-1]).tolist(), float(sums[-1])]
    return TrainStats(*(total / len(minibatches) for total in totals))


def rollout_metrics(
    rollouts: Rollouts,
    responses: Sequence[Response],
    score_N: Tensor,
    reward_NR: Tensor,
    return_NR: Tensor,
    *,
    old: OldOutputs,
) -> dict[str, float]:
    """Metrics of the step's rollouts before training, over all ranks.

    `score` is the reward model's, before penalty, clipping and scaling; `reward` is the sum of a response's shaped
    rewards.
    """
    mask_NR, count = rollouts.mask, len(responses)
    kl_N = response_kl(old.logprob, old.reference_logprob, mask_NR)
    metrics = all_reduce_means(
        {
            **response_metric_sums(responses, score_N, kl_N),
            "reward": (reward_NR.sum(), count),
            "entropy": (old.entropy.sum(), float(mask_NR.sum())),
            "sequence_tokens": (sum(len(states) + 1 for states in rollouts.trunk_states), count),
        }
    )
    return metrics | {"explained_variance": explained_variance(old.value[mask_NR], return_NR[mask_NR])}


def utilization_metrics(context: PpoContext, train_seconds: float, metrics: dict[str, float]) -> dict[str, float]:
    """`train_mfu`, the share of the GPU's peak that training used; empty on a CPU or an unknown GPU."""
    if context.device.type != "cuda":
        return {}
    rollouts = context.config.rollouts_per_step / context.world_size
    operations = context.config.epochs * context.policy.training_flops(
        metrics["sequence_tokens"] * rollouts, metrics["response_tokens"] * rollouts
    )
    mfu = model_flops_utilization(operations, train_seconds, torch.cuda.get_device_name(context.device))
    return {} if mfu is None else {"train_mfu": round(mfu, 4)}


def check_kl(kl: float, max_kl: float, step: int) -> None:
    """Raise KlLimitError if the KL exceeds its maximum, and UserError if it is not a finite number."""
    if not math.isfinite(kl):
        raise UserError(
            f"step {step}: the KL to the reference is {kl:g}, not finite; the last good checkpoint is kept; "
            "lower ppo.learning_rate or raise ppo.kl_coefficient"
        )
    if kl > max_kl:
        raise KlLimitError(kl)


def check_finite(stats: TrainStats, step: int) -> None:
    """Raise UserError if a training metric is not a finite number."""
    for name, value in stats._asdict().items():
        if not math.isfinite(value):
            raise UserError(
                f"step {step}: {name} is {value:g}; the last good checkpoint is kept; lower ppo.learning_rate"
            )
