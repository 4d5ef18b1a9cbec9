"""What each stage needs: memory of a GPU, operations and seconds.

d hidden size, V vocabulary, N parameters, P processes, D tokens.  A token takes 2 operations with each weight that it
passes, 4 more where gradients are computed (6 N D for a whole training), 2 more in blocks whose activations are
computed again.  Attention's own products, about 1 % at 512 tokens and d = 4096, are left out, as in the benchmark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rlhf.config import TrainingConfig
from rlhf.models.sizes import Architecture
from rlhf.planning.scenario import TOXICITY_PROMPT_TOKENS, Setting
from rlhf.training.ppo.memory import FLOAT32, LOGIT_COPIES, PASSING_WIDTHS, SAVED_WIDTHS

RECOMPUTE_FROM_PARAMETERS = 1_000_000_000
"""As rlhf.training.trl_trainer: larger models compute activations again in place of keeping them."""
DISK_BANDWIDTH = 1e9
"""Bytes per second.  Assumed: gp3 at its limit, or local NVMe behind a file system."""
DOWNLOAD_BANDWIDTH = 0.2e9
"""Bytes per second from the hub.  Assumed."""
HUB_BYTES = 4
"""Of a weight as the hub has it: GPT-J's are float32."""
DOCUMENT_TOKENS = 31
"""Mean words and signs of 5,000 documents of the synthetic corpus.  Measured."""
ROWS_PER_SECOND = 1000
"""Rows that prepare_data reads, encodes and compares.  Measured: 3,000 in 1.5 to 3 s."""
COMPARED_ROWS = 8
"""As rlhf.stages.compare_policies."""
SHARDED = {"fsdp": 3, "zero2": 2}
"""Accelerate configurations that spread the training's state, and how often a weight travels in a step: gathered for
forward and backward, or once and kept; and the gradient to its owner."""

FORMULAS = "rlhf/planning/needs.py"


@dataclass(frozen=True)
class Need:
    """What a stage needs of one process, and of all."""

    memory: dict[str, int]
    """Bytes of one GPU at its fullest, by what they are for."""
    flop: float
    """Operations of all processes."""
    seconds: float
    """From the first line of the stage's body to its last."""
    source: str
    """Formula and lengths behind the figures."""
    host_bytes: int = 0
    """Bytes of the machine's own memory, all processes of it together."""


def block_flop(model: Architecture) -> float:
    """Operations of a token through all blocks, without gradients."""
    return 2.0 * model.blocks * model.block_weights


def output_flop(model: Architecture) -> float:
    """Operations of a token through the output layer."""
    return 2.0 * model.width * model.vocabulary


def zero2_memory(setting: Setting, model: Architecture, rows: int) -> dict[str, int]:
    """As trlx fine-tunes under ZeRO-2: bfloat16 weights on every GPU, gradients, moments and float32 weights spread."""
    parameters, processes, tokens = model.parameters, setting.processes, rows * setting.longest_row
    return {
        "weights": setting.number_bytes * parameters,
        "gradients": setting.number_bytes * parameters // processes,
        "AdamW and float32 weights": 3 * FLOAT32 * parameters // processes,
        "activations": SAVED_WIDTHS * model.blocks * tokens * model.width * setting.number_bytes,
        "logits": LOGIT_COPIES * tokens * model.vocabulary * FLOAT32,
    }


def training_memory(
    setting: Setting, model: Architecture, parameters: int, rows: int, logit_tokens: int
) -> dict[str, int]:
    """AdamW in float32 on bfloat16 or float32 products: 4 bytes of weights, 4 of gradients, 8 of moments each, over the
    processes where FSDP spreads them; on each of them otherwise, with another 4 for what is being summed."""
    processes, state = setting.processes, model.width * setting.number_bytes
    accelerate = setting.config.compute.accelerate
    spread = accelerate in SHARDED and processes > 1
    share = processes if spread else 1
    tokens = rows * setting.longest_row
    recomputes = parameters >= RECOMPUTE_FROM_PARAMETERS
    one_block = SAVED_WIDTHS * tokens * state
    memory = {
        "weights": FLOAT32 * parameters // share,
        "gradients": FLOAT32 * parameters // share,
        "AdamW": 2 * FLOAT32 * parameters // share,
        "activations": one_block + model.blocks * tokens * state if recomputes else model.blocks * one_block,
        "logits": LOGIT_COPIES * logit_tokens * model.vocabulary * FLOAT32,
    }
    if spread:
        # Two blocks, the next one fetched ahead, and what FSDP wraps in no block: embeddings and output layer.
        some = 2 * model.block_parameters + model.embedding_parameters + model.output_parameters
        memory["gathered"] = (some if accelerate == "fsdp" else parameters) * setting.number_bytes
    elif processes > 1:
        memory["summed gradients"] = FLOAT32 * parameters
    return memory


def exchange_seconds(setting: Setting, parameters: int, settings: TrainingConfig) -> float:
    """What the processes send each other in an optimizer step."""
    processes = setting.processes
    others = (processes - 1) / processes
    travels = SHARDED.get(setting.config.compute.accelerate)
    if travels is not None:  # for each batch that is held at once
        batches = settings.batch_size // (settings.device_batch_size * processes)
        return batches * travels * parameters * setting.number_bytes * others / setting.rates.link
    return 2 * FLOAT32 * parameters * others / setting.rates.link


def training_files(setting: Setting, parameters: int, steps: int, settings: TrainingConfig) -> float:
    """Seconds of reading and writing: load, checkpoints, save whole in float32, read again, save as it is stored."""
    checkpoints = steps // settings.checkpoint_every * 3 * FLOAT32 * parameters
    return (checkpoints + 2 * (setting.number_bytes + FLOAT32) * parameters) / DISK_BANDWIDTH


def training_steps(settings: TrainingConfig, rows: int) -> int:
    """Optimizer steps, as rlhf.training.trl_trainer counts them."""
    steps = math.ceil(settings.epochs * rows / settings.batch_size)
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def train_sft(setting: Setting) -> Need:
    """Supervised fine-tuning of all weights."""
    model, sft = setting.policy.model, setting.config.sft
    need = _training(
        setting,
        sft,
        parameters=model.parameters,
        model=model,
        steps=training_steps(sft, setting.pairs),
        sides=1,
        head_flop=output_flop(model),
        logit_tokens=sft.device_batch_size * setting.longest_row,
    )
    if setting.config.trainer == "own" or not setting.machine.gpus:
        return need
    return replace(need, memory=zero2_memory(setting, model, sft.device_batch_size), source=f"ZeRO-2; {need.source}")


def train_reward(setting: Setting) -> Need:
    """The reward model on pairs; only the held-out pairs and the chosen answers where a finished one is taken over."""
    model, reward = setting.reward.model, setting.config.reward
    if reward.path is not None:
        rows = 2 * setting.config.data.validation_prompts + setting.pairs
        flop = rows * setting.row_tokens * block_flop(model)
        return Need(
            memory=_reading_memory(setting, model.reward_parameters, 4 * reward.device_batch_size, model),
            flop=flop,
            seconds=flop / setting.processes / setting.rates.reading
            + 2 * setting.number_bytes * model.reward_parameters / DISK_BANDWIDTH,
            source=f"{FORMULAS}: 2ND over the chosen answers; {_lengths(setting)}",
        )
    need = _training(
        setting,
        reward,
        parameters=model.reward_parameters,
        model=model,
        steps=training_steps(reward, setting.pairs),
        sides=2,
        head_flop=0.0,
        logit_tokens=0,
    )
    scored = setting.pairs * setting.row_tokens * block_flop(model)
    return replace(
        need,
        flop=need.flop + scored,
        seconds=need.seconds + scored / setting.processes / setting.rates.reading,
    )


def _training(
    setting: Setting,
    settings: TrainingConfig,
    *,
    parameters: int,
    model: Architecture,
    steps: int,
    sides: int,
    head_flop: float,
    logit_tokens: int,
) -> Need:
    recomputes = parameters >= RECOMPUTE_FROM_PARAMETERS
    per_token = 3 * (block_flop(model) + head_flop) + recomputes * block_flop(model)
    measured = (1 + math.ceil(steps / settings.checkpoint_every)) * setting.config.data.validation_prompts
    trained, read = (rows * sides * setting.row_tokens for rows in (steps * settings.batch_size, measured))
    flop = trained * per_token + read * (block_flop(model) + head_flop)
    products = flop / setting.processes / setting.rates.training
    exchange = steps * exchange_seconds(setting, parameters, settings)
    files = training_files(setting, parameters, steps, settings)
    bound = "exchange between GPUs" if exchange > products else "products"
    return Need(
        memory=training_memory(setting, model, parameters, sides * settings.device_batch_size, logit_tokens),
        flop=flop,
        seconds=max(products, exchange) + files,
        source=f"{FORMULAS}: 6ND{', 2ND for what is computed again' if recomputes else ''}; bound by {bound}; files "
        f"{files / 3600:.2f} h; {steps:,} steps of {settings.batch_size}; {_lengths(setting)}; pairs: "
        f"{setting.pairs_source}",
        host_bytes=FLOAT32 * parameters * setting.processes // setting.config.compute.machines,
    )


def prepare_model(setting: Setting) -> Need:
    """Download, or training of the synthetic model, which every process does alike with its share of the batch."""
    model, config = setting.policy.model, setting.config.model
    stored = setting.number_bytes * model.parameters
    if config.path is None and config.synthetic is not None:
        made = config.synthetic
        flop = 3.0 * made.documents * DOCUMENT_TOKENS * (block_flop(model) + output_flop(model))
        tokens = made.batch_size * made.context_tokens
        memory = {
            "weights, gradients, AdamW": 4 * FLOAT32 * model.parameters,
            "activations": SAVED_WIDTHS * model.blocks * tokens * model.width * FLOAT32,
            "logits": LOGIT_COPIES * tokens * model.vocabulary * FLOAT32,
        }
        source = f"{FORMULAS}: 6ND; {made.documents:,} documents of {DOCUMENT_TOKENS} tokens, measured"
        return Need(memory, flop, flop / setting.rates.training, source)
    fetched = HUB_BYTES * model.parameters / DOWNLOAD_BANDWIDTH if config.path is None else 0.0
    seconds = fetched + (HUB_BYTES * model.parameters + 2 * stored) / DISK_BANDWIDTH
    source = f"{FORMULAS}: bytes from the hub at 0.2 GB/s, to and from the disk at 1 GB/s, assumed"
    return Need({}, 0.0, seconds, source, host_bytes=2 * stored)


def prepare_data(setting: Setting) -> Need:
    """Reading and splitting, without an accelerator."""
    source = f"{ROWS_PER_SECOND} rows a second, measured; pairs: {setting.pairs_source}"
    return Need({}, 0.0, setting.pairs / ROWS_PER_SECOND, source)


def paperwork(_setting: Setting) -> Need:
    """Steps that only read and write what others have computed."""
    return Need({}, 0.0, 2.0, "measured: 0 to 2 s without an accelerator")


def generate_responses(setting: Setting) -> Need:
    """Answers of one model to the test prompts, batch by batch, and their scores."""
    config, model, reward = setting.config.responses, setting.policy.model, setting.reward.model
    count = setting.config.data.test_prompts
    drawn = config.sampling.max_new_tokens
    rounds = math.ceil(math.ceil(count / config.batch_size) / setting.processes)
    rows = min(config.batch_size, count)
    one = draw(setting, rows, rows, setting.prompt_tokens, drawn)
    scored = rows * (setting.prompt_tokens + drawn) * block_flop(reward)
    weights = setting.number_bytes * (model.parameters + reward.reward_parameters)
    length = setting.config.data.max_prompt_tokens + drawn
    return Need(
        memory={
            "policy": setting.number_bytes * model.parameters,
            "reward model": setting.number_bytes * reward.reward_parameters,
            "keys and values": model.cache_bytes(rows * length, setting.number_bytes),
            "activations": PASSING_WIDTHS * rows * length * model.width * setting.number_bytes,
        },
        flop=count / rows * (one.flop + scored),
        seconds=rounds * (one.seconds + scored / setting.rates.reading) + weights / DISK_BANDWIDTH,
        source=f"{FORMULAS}: 2ND; a drawn token reads all weights; answers at responses.sampling.max_new_tokens",
    )


def score_toxicity(setting: Setting) -> Need:
    """Continuations of one model, chunk by chunk; the classifier, a fiftieth of the work, is left out."""
    config, model = setting.config.toxicity, setting.policy.model
    count, rows = config.n_prompts * config.continuations, config.batch_size
    drawn = config.sampling.max_new_tokens
    rounds = math.ceil(math.ceil(count / rows) / setting.processes)
    one = draw(setting, rows, rows, TOXICITY_PROMPT_TOKENS, drawn)
    weights = setting.number_bytes * model.parameters
    tokens = rows * (TOXICITY_PROMPT_TOKENS + drawn)
    return Need(
        memory={
            "policy": weights,
            "keys and values": model.cache_bytes(tokens, setting.number_bytes),
            "activations": PASSING_WIDTHS * tokens * model.width * setting.number_bytes,
        },
        flop=count / rows * one.flop,
        seconds=rounds * one.seconds + weights / DISK_BANDWIDTH,
        source=f"{FORMULAS}: 2ND; prompts of {TOXICITY_PROMPT_TOKENS} tokens, measured; the classifier is left out",
    )


def compare_policies(setting: Setting) -> Need:
    """Both models read the held-out demonstrations and the RLHF model's answers."""
    model, data = setting.policy.model, setting.config.data
    answers = setting.config.responses.sampling.max_new_tokens
    held_out = data.validation_prompts * setting.row_tokens
    told = data.test_prompts * (setting.prompt_tokens + answers)
    placed = data.validation_prompts * (setting.row_tokens - setting.prompt_tokens) + data.test_prompts * answers
    flop = 2 * ((held_out + told) * block_flop(model) + placed * output_flop(model))
    weights = 2 * setting.number_bytes * model.parameters
    logits = COMPARED_ROWS * max(data.max_response_tokens, answers) * model.vocabulary * FLOAT32
    return Need(
        memory={
            "both policies": weights,
            "activations": PASSING_WIDTHS * COMPARED_ROWS * setting.longest_row * model.width * setting.number_bytes,
            "logits": LOGIT_COPIES * logits,
        },
        flop=flop,
        seconds=flop / setting.processes / setting.rates.reading + weights / DISK_BANDWIDTH,
        source=f"{FORMULAS}: 2ND for each model; {_lengths(setting)}",
    )


@dataclass(frozen=True)
class Drawn:
    """Operations and seconds of one process that draws."""

    flop: float
    seconds: float


def draw(setting: Setting, rows: int, at_once: int, prompt_tokens: float, new_tokens: int) -> Drawn:
    """`rows` answers of `new_tokens`, so many at once.

    Prompts are read at the rate of products.  A drawn token of a batch takes the time to read all weights and the keys
    and values of every row, or that of its products where it is longer.
    """
    model, rates = setting.policy.model, setting.rates
    prompt_flop = rows * prompt_tokens * block_flop(model)
    token_flop = block_flop(model) + output_flop(model)
    mean_tokens = int(prompt_tokens + new_tokens / 2)
    read = setting.number_bytes * model.parameters + model.cache_bytes(at_once * mean_tokens, setting.number_bytes)
    token_seconds = max(read / rates.memory, at_once * token_flop / rates.reading)
    return Drawn(
        flop=prompt_flop + rows * new_tokens * token_flop,
        seconds=prompt_flop / rates.reading + math.ceil(rows / at_once) * new_tokens * token_seconds,
    )


def _reading_memory(setting: Setting, parameters: int, rows: int, model: Architecture) -> dict[str, int]:
    return {
        "weights": setting.number_bytes * parameters,
        "activations": PASSING_WIDTHS * rows * setting.longest_row * model.width * setting.number_bytes,
    }


def _lengths(setting: Setting) -> str:
    return f"rows of {setting.row_tokens:.0f} tokens in the mean, as measured on Anthropic/hh-rlhf"
