"""What PPO needs: by this package's engine, or by trlx.

k unfrozen blocks, L tokens of a prompt with its answer, R of them drawn.  Of one step's rollouts the engine draws each
once through all blocks, scores it once through the reward model, and runs the top k blocks and the output layer twice
without gradients (policy and reference) and three times as much in each epoch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from rlhf.models.sizes import Architecture
from rlhf.planning.estimates import DISK_BANDWIDTH, FORMULAS, Need, block_flop, draw, output_flop
from rlhf.planning.scenario import Setting
from rlhf.training.ppo.memory import (
    FLOAT32,
    LOGIT_COPIES,
    PASSING_WIDTHS,
    SAVED_WIDTHS,
    PpoMemory,
    cpu_cache_room,
    decode_rows,
    gpu_cache_room,
    ppo_memory,
)

MEMORY = "rlhf/ppo/memory.py"
TRLX_DECODE, TRLX_ESTIMATE, TRLX_SCORE, TRLX_EPOCH = 1.0, 1.0, 2.0, 1.5
"""Passes of all tokens through all blocks in a step of trlx: drawing; policy, reference and value; reward of the answer
and again of the chosen one; and each epoch.  At the published setting, four epochs, ten passes: 27.5 PFLOP."""


class StepFlop(NamedTuple):
    """Operations of one step by phase, all processes together."""

    decode: float
    score: float
    estimate: float
    train: float

    @property
    def total(self) -> float:
        """Of the whole step."""
        return sum(self)


def step_flop(
    policy: Architecture,
    reward: Architecture,
    *,
    rollouts: float,
    prompt_tokens: float,
    response_tokens: float,
    unfrozen_blocks: int,
    epochs: int,
) -> StepFlop:
    """Operations of one step of the engine."""
    read, drawn = rollouts * (prompt_tokens + response_tokens), rollouts * response_tokens
    prompts = rollouts * prompt_tokens
    top = read * 2 * unfrozen_blocks * policy.block_weights + drawn * output_flop(policy)
    top -= prompts * 2 * policy.skipped_weights
    return StepFlop(
        decode=read * block_flop(policy) + drawn * output_flop(policy),
        score=read * block_flop(reward),
        estimate=2 * top,
        train=3 * epochs * top,
    )


def train_ppo(setting: Setting) -> Need:
    """PPO by whoever the run names."""
    return _by_trlx(setting) if setting.config.trainer == "trlx" else _by_engine(setting)


def engine_memory(setting: Setting) -> PpoMemory:
    """Memory of one process of the engine, which draws as many answers at once as the rest leaves room for."""
    ppo, model, data = setting.config.ppo, setting.policy.model, setting.config.data
    rollouts, minibatch = ppo.rollouts_per_step // setting.processes, ppo.minibatch_size // setting.processes
    drawn = ppo.sampling.max_new_tokens

    def drawing(rows: int) -> PpoMemory:
        return ppo_memory(
            model,
            unfrozen_blocks=unfrozen(setting),
            prompt_tokens=data.max_prompt_tokens,
            response_tokens=drawn,
            rollouts=rollouts,
            rollout_batch=rows,
            minibatch=minibatch,
            weight_bytes=setting.number_bytes,
            processes=setting.processes,
            reward_model=setting.reward.model,
        )

    return drawing(rows_at_once(setting, drawing(1)))


def rows_at_once(setting: Setting, memory: PpoMemory) -> int:
    """Answers that one process draws at once, as the engine decides it."""
    ppo, model = setting.config.ppo, setting.policy.model
    weights = setting.number_bytes * model.parameters
    standing = memory.standing - memory.kept
    on_gpu = setting.machine.gpus > 0
    length = setting.config.data.max_prompt_tokens + ppo.sampling.max_new_tokens
    return decode_rows(
        ppo.rollouts_per_step // setting.processes,
        at_most=ppo.rollout_batch_size,
        row_bytes=model.cache_bytes(length, setting.number_bytes),
        room=gpu_cache_room(setting.machine.device_bytes, standing) if on_gpu else cpu_cache_room(weights),
    )


def unfrozen(setting: Setting) -> int:
    """Blocks that are trained."""
    wanted = setting.config.ppo.unfrozen_blocks
    return setting.policy.model.blocks if wanted == "all" else min(wanted, setting.policy.model.blocks)


def _by_engine(setting: Setting) -> Need:
    ppo, model, rates, processes = setting.config.ppo, setting.policy.model, setting.rates, setting.processes
    memory = engine_memory(setting)
    rows = rows_at_once(setting, memory)
    drawn = ppo.sampling.max_new_tokens
    trained = model.top_parameters(unfrozen(setting)) + model.value_head_parameters

    def step(rollouts: float) -> StepFlop:
        return step_flop(
            model,
            setting.reward.model,
            rollouts=rollouts,
            prompt_tokens=setting.prompt_tokens,
            response_tokens=drawn,
            unfrozen_blocks=unfrozen(setting),
            epochs=ppo.epochs,
        )

    def seconds(rollouts: int) -> tuple[float, float]:
        """Of drawing and judging, and of training, so many rollouts of all processes."""
        own = math.ceil(rollouts / processes)
        flop = step(own)
        drawing = draw(setting, own, min(rows, own), setting.prompt_tokens, drawn).seconds
        return drawing + (flop.score + flop.estimate) / rates.reading, flop.train / rates.training

    updates = ppo.epochs * ppo.rollouts_per_step // ppo.minibatch_size
    exchanged = (processes > 1) * updates * trained * (FLOAT32 + setting.number_bytes) / rates.link
    judging, training = seconds(ppo.rollouts_per_step)
    measurements = 1 + math.ceil(ppo.steps / ppo.validate_every)
    validation = measurements * seconds(setting.config.data.validation_prompts)[0]
    checkpoints = (1 + math.ceil(ppo.steps / ppo.checkpoint_every)) * 3 * FLOAT32 * trained
    files = setting.number_bytes * (2 * model.parameters + setting.reward.model.reward_parameters)
    validated = step(measurements * setting.config.data.validation_prompts)
    return Need(
        memory={
            "policy": memory.policy,
            "reward model": memory.reward_model,
            "reference": memory.reference,
            "AdamW": memory.optimizer,
            "trunk states": memory.kept,
            f"drawing {rows} at once or training": max(memory.decode, memory.train),
        },
        flop=ppo.steps * step(ppo.rollouts_per_step).total + validated.total - validated.train,
        seconds=ppo.steps * (judging + training + exchanged) + validation + (checkpoints + files) / DISK_BANDWIDTH,
        source=f"{MEMORY}, held against measured peaks by a test; rlhf/planning/ppo_needs.py: {ppo.steps} steps of "
        f"{ppo.rollouts_per_step} rollouts, prompts of {setting.prompt_tokens:.0f} tokens in the mean, answers at "
        "ppo.sampling.max_new_tokens",
    )


def _by_trlx(setting: Setting) -> Need:
    """Under DeepSpeed's ZeRO-2, the reward model on a GPU of its own, which scores while the others wait."""
    ppo, model, reward = setting.config.ppo, setting.policy.model, setting.reward.model
    rates, processes, drawn = setting.rates, setting.processes, ppo.sampling.max_new_tokens
    own, minibatch = ppo.rollouts_per_step // processes, ppo.minibatch_size // processes
    trained = model.top_parameters(unfrozen(setting)) + model.value_head_parameters
    longest = setting.config.data.max_prompt_tokens + drawn
    at_once = min(ppo.rollout_batch_size, own)

    read = ppo.rollouts_per_step * (setting.prompt_tokens + drawn)
    one_pass = read * (block_flop(model) + output_flop(model))
    scored = TRLX_SCORE * read * block_flop(reward)
    epochs = ppo.epochs * TRLX_EPOCH * one_pass
    drawing = draw(setting, own, at_once, setting.prompt_tokens, drawn).seconds
    updates = ppo.epochs * ppo.rollouts_per_step // ppo.minibatch_size
    step = (
        drawing
        + TRLX_ESTIMATE * one_pass / processes / rates.reading
        + scored / rates.reading
        + epochs / processes / rates.training
        + (processes > 1) * updates * 2 * setting.number_bytes * trained / rates.link
    )
    state = model.width * setting.number_bytes
    logits = LOGIT_COPIES * minibatch * longest * model.vocabulary * FLOAT32
    cache = model.cache_bytes(at_once * longest, setting.number_bytes)
    return Need(
        memory={
            "policy": setting.number_bytes * (model.parameters + model.value_head_parameters),
            "reference": setting.number_bytes * model.top_parameters(unfrozen(setting)),
            "gradients": setting.number_bytes * trained,
            "AdamW and float32 weights": 3 * FLOAT32 * trained // processes,
            "drawing or training": max(
                cache + PASSING_WIDTHS * at_once * longest * state,
                logits + SAVED_WIDTHS * unfrozen(setting) * minibatch * longest * state,
            ),
        },
        flop=ppo.steps * ((TRLX_DECODE + TRLX_ESTIMATE) * one_pass + scored + epochs),
        seconds=ppo.steps * step + 2 * setting.number_bytes * model.parameters / DISK_BANDWIDTH,
        source=f"rlhf/planning/ppo_needs.py: ten passes a step, as trlx computes; {FORMULAS}; answers at "
        "ppo.sampling.max_new_tokens; the reward model's GPU is not in the memory",
    )
