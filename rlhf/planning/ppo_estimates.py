"""Estimate what PPO needs, with this package's engine or with trlx.

Per step, the engine decodes each rollout once through all blocks and scores it once with the reward model.  The top
(unfrozen) blocks and the output layer run twice without gradients (policy and reference) and, at three times that cost,
once per epoch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from rlhf.config import PpoConfig
from rlhf.models.sizes import ModelSize
from rlhf.planning.estimates import DISK_BANDWIDTH, FORMULAS, ResourceEstimate, block_flop, generation_cost, output_flop
from rlhf.planning.scenario import Scenario
from rlhf.training.ppo.memory import (
    FLOAT32,
    LOGIT_COPIES,
    SAVED_ACTIVATIONS,
    TRANSIENT_ACTIVATIONS,
    PpoMemory,
    cpu_kv_cache_budget,
    decode_batch_size,
    gpu_kv_cache_budget,
    ppo_memory,
)

MEMORY = "rlhf/training/ppo/memory.py"
TRLX_DECODE, TRLX_ESTIMATE, TRLX_SCORE, TRLX_EPOCH = 1.0, 1.0, 2.0, 1.5
"""Passes of all tokens through all blocks per step of trlx: decoding; policy, reference and value; scoring the response
and the chosen response; and each epoch.  At the published setting, four epochs, ten passes: 27.5 PFLOP."""


class StepFlop(NamedTuple):
    """Operations of one step by phase, all ranks together."""

    decode: float
    score: float
    estimate: float
    train: float

    @property
    def total(self) -> float:
        """Operations of the complete step."""
        return sum(self)


def step_flop(
    policy: ModelSize,
    reward: ModelSize,
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


def validations(ppo: PpoConfig) -> int:
    """Number of times that a training is validated: before the first step, every `validate_every`, after the last."""
    return 1 + math.ceil(ppo.steps / ppo.validate_every)


def train_ppo(scenario: Scenario) -> ResourceEstimate:
    """PPO by the trainer that the run names."""
    return _by_trlx(scenario) if scenario.config.trainer == "trlx" else _by_engine(scenario)


def engine_memory(scenario: Scenario) -> PpoMemory:
    """Memory of one rank of the engine, which decodes the largest batch that fits next to everything else."""
    ppo, model, data = scenario.config.ppo, scenario.policy.model, scenario.config.data
    rollouts, minibatch = ppo.rollouts_per_step // scenario.processes, ppo.minibatch_size // scenario.processes
    drawn = ppo.sampling.max_new_tokens

    def memory_at(rows: int) -> PpoMemory:
        return ppo_memory(
            model,
            unfrozen_blocks=unfrozen(scenario),
            prompt_tokens=data.max_prompt_tokens,
            response_tokens=drawn,
            rollouts=rollouts,
            decode_batch_size=rows,
            minibatch_size=minibatch,
            weight_bytes=scenario.dtype_bytes,
            world_size=scenario.processes,
            reward_model=scenario.reward.model,
        )

    return memory_at(decode_batch_size_of(scenario, memory_at(1)))


def decode_batch_size_of(scenario: Scenario, memory: PpoMemory) -> int:
    """Responses that one rank decodes at once, as the engine decides it."""
    ppo, model = scenario.config.ppo, scenario.policy.model
    weights = scenario.dtype_bytes * model.parameters
    resident = memory.resident - memory.trunk_states
    on_gpu = scenario.machine.gpus > 0
    length = scenario.config.data.max_prompt_tokens + ppo.sampling.max_new_tokens
    return decode_batch_size(
        ppo.rollouts_per_step // scenario.processes,
        max_batch_size=ppo.rollout_batch_size,
        bytes_per_row=model.cache_bytes(length, scenario.dtype_bytes),
        budget=gpu_kv_cache_budget(scenario.machine.device_memory_bytes, resident)
        if on_gpu
        else cpu_kv_cache_budget(weights),
    )


def unfrozen(scenario: Scenario) -> int:
    """Number of blocks that are trained."""
    blocks = scenario.config.ppo.unfrozen_blocks
    return scenario.policy.model.num_layers if blocks == "all" else min(blocks, scenario.policy.model.num_layers)


def _by_engine(scenario: Scenario) -> ResourceEstimate:
    ppo, model, throughput, processes = (
        scenario.config.ppo,
        scenario.policy.model,
        scenario.throughput,
        scenario.processes,
    )
    memory = engine_memory(scenario)
    rows = decode_batch_size_of(scenario, memory)
    drawn = ppo.sampling.max_new_tokens
    trained = model.top_parameters(unfrozen(scenario)) + model.value_head_parameters

    def step(rollouts: float) -> StepFlop:
        return step_flop(
            model,
            scenario.reward.model,
            rollouts=rollouts,
            prompt_tokens=scenario.prompt_tokens,
            response_tokens=drawn,
            unfrozen_blocks=unfrozen(scenario),
            epochs=ppo.epochs,
        )

    def seconds(rollouts: int) -> tuple[float, float]:
        """Seconds of generating and scoring, and of training, for this many rollouts over all ranks."""
        own = math.ceil(rollouts / processes)
        flop = step(own)
        decoding = generation_cost(scenario, own, min(rows, own), scenario.prompt_tokens, drawn).seconds
        return decoding + (flop.score + flop.estimate) / throughput.forward, flop.train / throughput.training

    updates = ppo.epochs * ppo.rollouts_per_step // ppo.minibatch_size
    exchanged = (processes > 1) * updates * trained * (FLOAT32 + scenario.dtype_bytes) / throughput.interconnect
    generating, training = seconds(ppo.rollouts_per_step)
    validation = validations(ppo) * seconds(scenario.config.data.validation_prompts)[0]
    checkpoints = (1 + math.ceil(ppo.steps / ppo.checkpoint_every)) * 3 * FLOAT32 * trained
    files = scenario.dtype_bytes * (2 * model.parameters + scenario.reward.model.reward_parameters)
    validated = step(validations(ppo) * scenario.config.data.validation_prompts)
    return ResourceEstimate(
        memory={
            "policy": memory.policy,
            "reward model": memory.reward_model,
            "reference": memory.reference,
            "AdamW": memory.optimizer,
            "trunk states": memory.trunk_states,
            f"decoding {rows} at once or training": max(memory.decode, memory.train),
        },
        flop=ppo.steps * step(ppo.rollouts_per_step).total + validated.total - validated.train,
        seconds=ppo.steps * (generating + training + exchanged) + validation + (checkpoints + files) / DISK_BANDWIDTH,
        source=f"{MEMORY}, compared with measured peaks by a test; rlhf/planning/ppo_estimates.py: "
        f"{ppo.steps} steps of {ppo.rollouts_per_step} rollouts, prompts of {scenario.prompt_tokens:.0f} tokens on "
        "average, responses of ppo.sampling.max_new_tokens",
    )


def _by_trlx(scenario: Scenario) -> ResourceEstimate:
    """PPO by trlx under ZeRO-2, with the reward model on a GPU of its own; the other GPUs wait while it scores."""
    ppo, model, reward = scenario.config.ppo, scenario.policy.model, scenario.reward.model
    throughput, processes, drawn = scenario.throughput, scenario.processes, ppo.sampling.max_new_tokens
    own, minibatch = ppo.rollouts_per_step // processes, ppo.minibatch_size // processes
    trained = model.top_parameters(unfrozen(scenario)) + model.value_head_parameters
    longest = scenario.config.data.max_prompt_tokens + drawn
    at_once = min(ppo.rollout_batch_size, own)

    read = ppo.rollouts_per_step * (scenario.prompt_tokens + drawn)
    one_pass = read * (block_flop(model) + output_flop(model))
    scored = TRLX_SCORE * read * block_flop(reward)
    epochs = ppo.epochs * TRLX_EPOCH * one_pass
    decoding = generation_cost(scenario, own, at_once, scenario.prompt_tokens, drawn).seconds
    updates = ppo.epochs * ppo.rollouts_per_step // ppo.minibatch_size
    step = (
        decoding
        + TRLX_ESTIMATE * one_pass / processes / throughput.forward
        + scored / throughput.forward
        + epochs / processes / throughput.training
        + (processes > 1) * updates * 2 * scenario.dtype_bytes * trained / throughput.interconnect
    )
    prompts = scenario.config.data.validation_prompts
    own_prompts = math.ceil(prompts / processes)
    responding = generation_cost(scenario, own_prompts, min(at_once, own_prompts), scenario.prompt_tokens, drawn)
    validation_score = prompts * (scenario.prompt_tokens + drawn) * block_flop(reward)
    state = model.hidden_size * scenario.dtype_bytes
    logits = LOGIT_COPIES * minibatch * longest * model.vocab_size * FLOAT32
    cache = model.cache_bytes(at_once * longest, scenario.dtype_bytes)
    return ResourceEstimate(
        memory={
            "policy": scenario.dtype_bytes * (model.parameters + model.value_head_parameters),
            "reference": scenario.dtype_bytes * model.top_parameters(unfrozen(scenario)),
            "gradients": scenario.dtype_bytes * trained,
            "AdamW and float32 weights": 3 * FLOAT32 * trained // processes,
            "decoding or training": max(
                cache + TRANSIENT_ACTIVATIONS * at_once * longest * state,
                logits + SAVED_ACTIVATIONS * unfrozen(scenario) * minibatch * longest * state,
            ),
        },
        flop=ppo.steps * ((TRLX_DECODE + TRLX_ESTIMATE) * one_pass + scored + epochs)
        + validations(ppo) * (prompts / own_prompts * responding.flop + validation_score),
        seconds=ppo.steps * step
        + validations(ppo) * (responding.seconds + validation_score / throughput.forward)
        + 2 * scenario.dtype_bytes * model.parameters / DISK_BANDWIDTH,
        source=f"rlhf/planning/ppo_estimates.py: ten passes a step, as trlx computes; {FORMULAS}; responses of "
        "ppo.sampling.max_new_tokens; the reward model's GPU is not in the memory",
    )
