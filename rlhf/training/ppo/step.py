"""One step of PPO: draw answers, see what they are worth, learn from them.

N rollouts of this process, R response places padded on the right, T response tokens one after another.
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
from rlhf.runtime.distributed import sum_over_processes
from rlhf.runtime.seeds import row_seed
from rlhf.training.ppo.advantages import estimate_advantages, shape_rewards, whiten
from rlhf.training.ppo.context import Run
from rlhf.training.ppo.kl import answer_kl
from rlhf.training.ppo.losses import ppo_loss, token_logprobs
from rlhf.training.ppo.metrics import Clock, answer_sums, explained_variance, means, model_flops_utilization
from rlhf.training.ppo.optimizer import Optimizer
from rlhf.training.ppo.policy import Policy
from rlhf.training.ppo.prompts import Prompt, prompt_numbers
from rlhf.training.ppo.rollout import Estimates, Rollouts, estimate, minibatch_rows
from rlhf.training.ppo.score_scaling import scale_scores

Minibatches = list[list[int]]


class Targets(NamedTuple):
    """What training moves policy and values towards; [N, R]."""

    advantage: Tensor
    """Whitened."""
    returns: Tensor


class Trained(NamedTuple):
    """Means over the minibatches of a step."""

    policy_loss: float
    value_loss: float
    policy_clip_fraction: float
    value_clip_fraction: float
    gradient_norm: float


def run_step(run: Run, step: int) -> dict[str, float]:
    """Take `step` (from 1); returns its row of metrics.

    Raises UserError where a loss is not finite or the KL passes its bound; the weights are then spoilt, and the last
    checkpoint is the good one.
    """
    config, clock = run.config, Clock(run.device)
    coefficient = run.kl.coefficient
    prompts, seeds = draw_prompts(run, step)
    with clock.phase("decode"):
        answers = run.answer(prompts, seeds)
    with clock.phase("estimate"):
        rollouts = run.keep(prompts, answers)
        epochs = [draw_minibatches(run, step, epoch) for epoch in range(config.epochs)]
        estimates = estimate(run.policy, rollouts, epochs[0])
    with clock.phase("score"):
        raw_score_N = run.score(prompts, answers)
    with clock.phase("train"):
        score_N = scale_scores(raw_score_N, run.scores, clip=config.score_clip, scale=config.scale_scores)
        reward_NR = shape_rewards(
            score_N, estimates.logprob, estimates.reference_logprob, rollouts.mask, kl_coefficient=coefficient
        )
        targets = make_targets(reward_NR, estimates.value, rollouts.mask, config)
        figures = describe(answers, raw_score_N, reward_NR, rollouts=rollouts, estimates=estimates, targets=targets)
        refuse_distance(figures["kl"], config.max_kl, step)
        trained = optimise(
            run.policy,
            run.optimizer,
            [rows for minibatches in epochs for rows in minibatches],
            rollouts=rollouts,
            estimates=estimates,
            targets=targets,
            config=config,
        )
    refuse_divergence(trained, step)
    run.kl.update(figures["kl"], config.rollouts_per_step)
    return {
        "step": step,
        **figures,
        "kl_coefficient": coefficient,
        **trained._asdict(),
        **describe_speed(clock.seconds, figures, config),
        **describe_utilization(run, clock.seconds["train"], figures),
    }


def draw_prompts(run: Run, step: int) -> tuple[list[Prompt], list[int]]:
    """This process's prompts of the step and the seeds of their answers."""
    numbers = prompt_numbers(step, run.config.rollouts_per_step, len(run.prompts), run.seed)
    share = run.share(len(numbers))
    seeds = [row_seed(run.seed, "rollout", str(step), str(index)) for index in share]
    return [run.prompts[numbers[index]] for index in share], seeds


def draw_minibatches(run: Run, step: int, epoch: int) -> Minibatches:
    """This process's part of an epoch's minibatches."""
    config = run.config
    seeds = [
        row_seed(run.seed, "minibatches", str(step), str(epoch), str(lane)) for lane in run.share(config.minibatch_size)
    ]
    return minibatch_rows(config.rollouts_per_step // config.minibatch_size, seeds)


def make_targets(reward_NR: Tensor, value_NR: Tensor, mask_NR: Tensor, config: PpoConfig) -> Targets:
    """Advantages, whitened over the tokens of the step, and returns."""
    advantage_NR, return_NR = estimate_advantages(
        reward_NR, value_NR, mask_NR, discount=config.discount, gae_lambda=config.gae_lambda
    )
    whitened_NR = torch.zeros_like(advantage_NR)
    whitened_NR[mask_NR] = whiten(advantage_NR[mask_NR])
    return Targets(whitened_NR, return_NR)


def optimise(
    policy: Policy,
    optimizer: Optimizer,
    minibatches: Minibatches,
    *,
    rollouts: Rollouts,
    estimates: Estimates,
    targets: Targets,
    config: PpoConfig,
) -> Trained:
    """Train on every minibatch in turn."""
    length_N = rollouts.mask.sum(1).tolist()
    tokens = torch.tensor([sum(length_N[row] for row in rows) for rows in minibatches], dtype=torch.float64)
    sums = torch.zeros(len(Trained._fields), device=rollouts.mask.device)
    for rows, token_count in zip(minibatches, sum_over_processes(tokens).tolist(), strict=True):
        batch = rollouts.batch(rows)
        logits_TV, value_T = policy.predict(batch)
        logprob_T = token_logprobs(logits_TV, batch.token)
        del logits_TV  # the largest tensor, of which the gradient needs nothing more
        loss = ppo_loss(
            logprob_T,
            value_T,
            old_logprob_T=rollouts.flatten(estimates.logprob, rows),
            old_value_T=rollouts.flatten(estimates.value, rows),
            advantage_T=rollouts.flatten(targets.advantage, rows),
            return_T=rollouts.flatten(targets.returns, rows),
            policy_clip=config.policy_clip,
            value_clip=config.value_clip,
            value_coefficient=config.value_coefficient,
            token_count=token_count,
        )
        torch.autograd.backward(loss.total)
        gradient_norm = optimizer.step()
        sums += torch.stack([*loss[1:], gradient_norm])
    # the loss was a share of the whole minibatch's, the norm that of the summed gradient on every process
    totals = [*sum_over_processes(sums[:-1]).tolist(), float(sums[-1])]
    return Trained(*(total / len(minibatches) for total in totals))


def describe(
    answers: Sequence[Response],
    score_N: Tensor,
    reward_NR: Tensor,
    *,
    rollouts: Rollouts,
    estimates: Estimates,
    targets: Targets,
) -> dict[str, float]:
    """Figures of the step's rollouts, over all processes, before training."""
    mask_NR, count = rollouts.mask, len(answers)
    kl_N = answer_kl(estimates.logprob, estimates.reference_logprob, mask_NR)
    figures = means(
        {
            **answer_sums(answers, score_N, kl_N),
            "reward": (reward_NR.sum(), count),
            "entropy": (estimates.entropy.sum(), float(mask_NR.sum())),
            "sequence_tokens": (sum(len(kept) + 1 for kept in rollouts.kept), count),
        }
    )
    return figures | {"explained_variance": explained_variance(estimates.value[mask_NR], targets.returns[mask_NR])}


def describe_speed(seconds: dict[str, float], figures: dict[str, float], config: PpoConfig) -> dict[str, float]:
    """Seconds of each phase, and tokens per second of all processes: in decode those drawn, else those read."""
    drawn = figures["response_tokens"] * config.rollouts_per_step
    read = figures["sequence_tokens"] * config.rollouts_per_step
    tokens = {"decode": drawn, "estimate": read, "score": read, "train": read * config.epochs}
    return {
        **{f"{phase}_seconds": round(spent, 4) for phase, spent in seconds.items()},
        **{f"{phase}_tokens_per_second": round(tokens[phase] / spent, 1) for phase, spent in seconds.items()},
        "rollouts_per_second": round(config.rollouts_per_step / sum(seconds.values()), 3),
    }


def describe_utilization(run: Run, train_seconds: float, figures: dict[str, float]) -> dict[str, float]:
    """`train_mfu`, the share of a GPU's peak that the training used, where the run is on a GPU that is known."""
    if run.device.type != "cuda":
        return {}
    rollouts = run.config.rollouts_per_step / run.processes
    operations = run.config.epochs * run.policy.training_operations(
        figures["sequence_tokens"] * rollouts, figures["response_tokens"] * rollouts
    )
    mfu = model_flops_utilization(operations, train_seconds, torch.cuda.get_device_name(run.device))
    return {} if mfu is None else {"train_mfu": round(mfu, 4)}


def refuse_distance(kl: float, limit: float, step: int) -> None:
    """Raise UserError where the KL is beyond its bound or no number."""
    if not kl <= limit:
        raise UserError(
            f"step {step}: the KL to the reference is {kl:.3g} nats per answer, ppo.max_kl is {limit:g}; the last "
            "good checkpoint is kept; lower ppo.learning_rate or raise ppo.kl_coefficient"
        )


def refuse_divergence(trained: Trained, step: int) -> None:
    """Raise UserError where a mean of the training is not finite."""
    for name, value in trained._asdict().items():
        if not math.isfinite(value):
            raise UserError(
                f"step {step}: {name} is {value:g}; the last good checkpoint is kept; lower ppo.learning_rate"
            )
