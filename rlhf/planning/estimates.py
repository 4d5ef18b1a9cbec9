"""Estimate what preparation and supervised training need: GPU memory, operations and seconds.

N parameters, D tokens, H hidden size.  A token takes 2 operations per weight in a forward pass, 4 more if gradients are
computed (6 N D for a training), and 2 more in blocks whose activations are recomputed.  The products of attention
itself, about 1 % at 512 tokens and H = 4096, are ignored, as in the benchmark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rlhf.config import TrainingConfig
from rlhf.models.limits import RECOMPUTE_FROM_PARAMETERS, SCORING_FACTOR, total_steps
from rlhf.models.sizes import ModelSize
from rlhf.planning.scenario import Scenario
from rlhf.training.ppo.memory import FLOAT32, LOGIT_COPIES, SAVED_ACTIVATIONS, TRANSIENT_ACTIVATIONS

DISK_BANDWIDTH = 1e9
"""Bytes per second.  Assumed: gp3 at its limit, or local NVMe through a file system."""
DOWNLOAD_BANDWIDTH = 0.2e9
"""Bytes per second from the hub.  Assumed."""
HUB_BYTES = 4
"""Bytes per weight on the hub: GPT-J's are float32."""
DOCUMENT_TOKENS = 31
"""Mean tokens of 5,000 documents of the synthetic corpus.  Measured."""
ROWS_PER_SECOND = 1000
"""Rows per second that prepare_data reads, tokenizes and compares.  Measured: 3,000 in 1.5 to 3 s."""
SHARDED = {"fsdp": 3, "zero2": 2}
"""Accelerate configurations that shard the training state, and how often each weight is sent per step: gathered for
forward and backward or only once, and reduced as a gradient."""

FORMULAS = "rlhf/planning/estimates.py"


@dataclass(frozen=True)
class ResourceEstimate:
    """What a stage needs."""

    memory: dict[str, int]
    """Peak bytes on one GPU, by purpose."""
    flop: float
    """Floating-point operations, all ranks together."""
    seconds: float
    """Wall time of the stage's function, without imports."""
    source: str
    """Formula and lengths that the numbers come from."""
    host_memory_bytes: int = 0
    """Bytes of the machine's main memory, all its ranks together."""


def block_flop(model: ModelSize) -> float:
    """Operations per token in a forward pass through all blocks."""
    return 2.0 * model.num_layers * model.block_weights


def output_flop(model: ModelSize) -> float:
    """Operations per token in a forward pass through the output layer."""
    return 2.0 * model.hidden_size * model.vocab_size


def trlx_sft_memory(scenario: Scenario, model: ModelSize, rows: int) -> dict[str, int]:
    """SFT by trlx under ZeRO-2: bfloat16 weights on every GPU; gradients, Adam state and float32 weights sharded."""
    parameters, processes, tokens = model.parameters, scenario.processes, rows * scenario.longest_row
    return {
        "weights": scenario.dtype_bytes * parameters,
        "gradients": scenario.dtype_bytes * parameters // processes,
        "AdamW and float32 weights": 3 * FLOAT32 * parameters // processes,
        "activations": SAVED_ACTIVATIONS * model.num_layers * tokens * model.hidden_size * scenario.dtype_bytes,
        "logits": LOGIT_COPIES * tokens * model.vocab_size * FLOAT32,
    }


def training_memory(
    scenario: Scenario, model: ModelSize, parameters: int, rows: int, logit_tokens: int
) -> dict[str, int]:
    """Training memory of AdamW in float32: per parameter 4 bytes of weight, 4 of gradient and 8 of Adam state.

    Sharded over the ranks if accelerate's configuration does so; else complete on each rank, with another 4 bytes for
    the summed gradient.
    """
    processes, state = scenario.processes, model.hidden_size * scenario.dtype_bytes
    accelerate = scenario.config.compute.accelerate
    sharded = accelerate in SHARDED and processes > 1
    shards = processes if sharded else 1
    tokens = rows * scenario.longest_row
    recomputes = parameters >= RECOMPUTE_FROM_PARAMETERS
    one_block = SAVED_ACTIVATIONS * tokens * state
    memory = {
        "weights": FLOAT32 * parameters // shards,
        "gradients": FLOAT32 * parameters // shards,
        "AdamW": 2 * FLOAT32 * parameters // shards,
        "activations": one_block + model.num_layers * tokens * state if recomputes else model.num_layers * one_block,
        "logits": LOGIT_COPIES * logit_tokens * model.vocab_size * FLOAT32,
    }
    if sharded:
        # Two blocks (one is prefetched), and what FSDP does not wrap in a block: embeddings and output layer.
        unwrapped = 2 * model.block_parameters + model.embedding_parameters + model.output_parameters
        memory["gathered"] = (unwrapped if accelerate == "fsdp" else parameters) * scenario.dtype_bytes
    elif processes > 1:
        memory["summed gradients"] = FLOAT32 * parameters
    return memory


def communication_seconds(scenario: Scenario, parameters: int, settings: TrainingConfig) -> float:
    """Seconds of communication between ranks per optimizer step."""
    processes = scenario.processes
    others = (processes - 1) / processes
    transfers = SHARDED.get(scenario.config.compute.accelerate)
    if transfers is not None:  # per device batch
        batches = settings.batch_size // (settings.device_batch_size * processes)
        return batches * transfers * parameters * scenario.dtype_bytes * others / scenario.throughput.interconnect
    return 2 * FLOAT32 * parameters * others / scenario.throughput.interconnect


def file_seconds(scenario: Scenario, parameters: int, steps: int, settings: TrainingConfig) -> float:
    """Seconds of file access: load, checkpoints, save in float32, read again, save in the stored format."""
    checkpoints = steps // settings.checkpoint_every * 3 * FLOAT32 * parameters
    return (checkpoints + 2 * (scenario.dtype_bytes + FLOAT32) * parameters) / DISK_BANDWIDTH


def train_sft(scenario: Scenario) -> ResourceEstimate:
    """SFT of all weights."""
    model, sft = scenario.policy.model, scenario.config.sft
    estimate = _training(
        scenario,
        sft,
        parameters=model.parameters,
        model=model,
        steps=total_steps(sft, scenario.pairs),
        sides=1,
        head_flop=output_flop(model),
        logit_tokens=sft.device_batch_size * scenario.longest_row,
    )
    if scenario.config.trainer == "own" or not scenario.machine.gpus:
        return estimate
    return replace(
        estimate, memory=trlx_sft_memory(scenario, model, sft.device_batch_size), source=f"ZeRO-2; {estimate.source}"
    )


def train_reward(scenario: Scenario) -> ResourceEstimate:
    """Reward model training on pairs; a finished reward model only scores validation pairs and chosen responses."""
    model, reward = scenario.reward.model, scenario.config.reward
    if reward.path is not None:
        rows = 2 * scenario.config.data.validation_prompts + scenario.pairs
        flop = rows * scenario.row_tokens * block_flop(model)
        return ResourceEstimate(
            memory=forward_memory(
                scenario,
                model,
                model.reward_parameters,
                SCORING_FACTOR * reward.device_batch_size,
                scenario.longest_row,
            ),
            flop=flop,
            seconds=flop / scenario.processes / scenario.throughput.forward
            + 2 * scenario.dtype_bytes * model.reward_parameters / DISK_BANDWIDTH,
            source=f"{FORMULAS}: 2ND over the chosen responses; {lengths(scenario)}",
        )
    estimate = _reward_training(scenario)
    scored = scenario.pairs * scenario.row_tokens * block_flop(model)
    return replace(
        estimate,
        flop=estimate.flop + scored,
        seconds=estimate.seconds + scored / scenario.processes / scenario.throughput.forward,
    )


def train_judge(judge: Scenario) -> ResourceEstimate:
    """Training of the independent judge, which scores no chosen responses for PPO.  Takes the judge's scenario."""
    estimate = _reward_training(judge)
    return replace(estimate, source=f"{estimate.source}; model size: {judge.policy.source}")


def _reward_training(scenario: Scenario) -> ResourceEstimate:
    model, reward = scenario.reward.model, scenario.config.reward
    return _training(
        scenario,
        reward,
        parameters=model.reward_parameters,
        model=model,
        steps=total_steps(reward, scenario.pairs),
        sides=2,
        head_flop=0.0,
        logit_tokens=0,
    )


def _training(
    scenario: Scenario,
    settings: TrainingConfig,
    *,
    parameters: int,
    model: ModelSize,
    steps: int,
    sides: int,
    head_flop: float,
    logit_tokens: int,
) -> ResourceEstimate:
    recomputes = parameters >= RECOMPUTE_FROM_PARAMETERS
    per_token = 3 * (block_flop(model) + head_flop) + recomputes * block_flop(model)
    validation_rows = (1 + math.ceil(steps / settings.checkpoint_every)) * scenario.config.data.validation_prompts
    trained, read = (rows * sides * scenario.row_tokens for rows in (steps * settings.batch_size, validation_rows))
    flop = trained * per_token + read * (block_flop(model) + head_flop)
    products = flop / scenario.processes / scenario.throughput.training
    communication = steps * communication_seconds(scenario, parameters, settings)
    files = file_seconds(scenario, parameters, steps, settings)
    bound = "communication between GPUs" if communication > products else "matrix products"
    return ResourceEstimate(
        memory=training_memory(scenario, model, parameters, sides * settings.device_batch_size, logit_tokens),
        flop=flop,
        seconds=max(products, communication) + files,
        source=f"{FORMULAS}: 6ND{', 2ND for recomputed activations' if recomputes else ''}; bound by {bound}; files "
        f"{files / 3600:.2f} h; {steps:,} steps of {settings.batch_size}; {lengths(scenario)}; pairs: "
        f"{scenario.pairs_source}",
        host_memory_bytes=FLOAT32 * parameters * scenario.processes // scenario.config.compute.machines,
    )


def prepare_model(scenario: Scenario) -> ResourceEstimate:
    """Download of the base model, or training of the synthetic one."""
    model, config = scenario.policy.model, scenario.config.model
    stored = scenario.dtype_bytes * model.parameters
    if config.path is None and config.synthetic is not None:
        synthetic = config.synthetic
        flop = 3.0 * synthetic.documents * DOCUMENT_TOKENS * (block_flop(model) + output_flop(model))
        tokens = synthetic.batch_size * synthetic.context_tokens
        memory = {
            "weights, gradients, AdamW": 4 * FLOAT32 * model.parameters,
            "activations": SAVED_ACTIVATIONS * model.num_layers * tokens * model.hidden_size * FLOAT32,
            "logits": LOGIT_COPIES * tokens * model.vocab_size * FLOAT32,
        }
        source = f"{FORMULAS}: 6ND; {synthetic.documents:,} documents of {DOCUMENT_TOKENS} tokens, measured"
        return ResourceEstimate(memory, flop, flop / scenario.throughput.training, source)
    download = HUB_BYTES * model.parameters / DOWNLOAD_BANDWIDTH if config.path is None else 0.0
    seconds = download + (HUB_BYTES * model.parameters + 2 * stored) / DISK_BANDWIDTH
    source = f"{FORMULAS}: bytes from the hub at 0.2 GB/s, to and from the disk at 1 GB/s, assumed"
    return ResourceEstimate({}, 0.0, seconds, source, host_memory_bytes=2 * stored)


def prepare_data(scenario: Scenario) -> ResourceEstimate:
    """Reading and splitting of the data, on CPU."""
    source = f"{ROWS_PER_SECOND} rows a second, measured; pairs: {scenario.pairs_source}"
    return ResourceEstimate({}, 0.0, scenario.rows / ROWS_PER_SECOND, source)


def cpu_only_stage() -> ResourceEstimate:
    """Stages that only read and write files."""
    return ResourceEstimate({}, 0.0, 2.0, "measured: 0 to 2 s on CPU")


@dataclass(frozen=True)
class GenerationCost:
    """Operations and seconds of one rank that generates."""

    flop: float
    seconds: float


def generation_cost(
    scenario: Scenario, rows: int, at_once: int, prompt_tokens: float, new_tokens: int
) -> GenerationCost:
    """Cost of `rows` responses of `new_tokens` tokens, `at_once` in a batch.

    The prompt is limited by matrix products.  Decoding one token takes the larger of: reading all weights and the KV
    cache, or the matrix products.
    """
    model, throughput = scenario.policy.model, scenario.throughput
    prompt_flop = rows * prompt_tokens * block_flop(model)
    token_flop = block_flop(model) + output_flop(model)
    mean_tokens = int(prompt_tokens + new_tokens / 2)
    read = scenario.dtype_bytes * model.parameters + model.cache_bytes(at_once * mean_tokens, scenario.dtype_bytes)
    token_seconds = max(read / throughput.memory, at_once * token_flop / throughput.forward)
    return GenerationCost(
        flop=prompt_flop + rows * new_tokens * token_flop,
        seconds=prompt_flop / throughput.forward + math.ceil(rows / at_once) * new_tokens * token_seconds,
    )


def forward_memory(scenario: Scenario, model: ModelSize, parameters: int, rows: int, longest: int) -> dict[str, int]:
    """Memory of forward passes over `rows` dialogues of at most `longest` tokens at a time."""
    return {
        "weights": scenario.dtype_bytes * parameters,
        "activations": TRANSIENT_ACTIVATIONS * rows * longest * model.hidden_size * scenario.dtype_bytes,
    }


def lengths(scenario: Scenario) -> str:
    """The assumed length of rows, as part of a source."""
    return f"rows of {scenario.row_tokens:.0f} tokens on average, as measured on Anthropic/hh-rlhf"
