"""What a plan starts from: the run's settings, its models' sizes, the machine and what is known of the data."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlhf.config import HUB, SYNTHETIC, DataConfig, ModelConfig, RunConfig
from rlhf.errors import UserError
from rlhf.models.sizes import Architecture, gptj, read_architecture
from rlhf.planning.machines import Machine
from rlhf.planning.throughput import Rates, rates_of

HUB_MODELS = {"EleutherAI/gpt-j-6b": gptj(width=4096, blocks=28, vocabulary=50400)}
"""Sizes in config.json of the repository at the pinned revision."""
HUB_PAIRS = {
    "helpful-base": 43_835,
    "harmless-base": 42_537,
    "helpful-online": 22_007,
    "helpful-rejection-sampled": 52_421,
}
"""Training rows of Anthropic/hh-rlhf by folder: its data card."""
UNKNOWN_PAIRS = 10_000
"""Where the rows cannot be counted."""
KEPT_SHARE, PROMPT_SHARE, ANSWER_SHARE = 0.89, 0.29, 0.32
"""Share of rows kept; their mean lengths as shares of data.max_prompt_tokens and data.max_response_tokens.
Measured on the 4,666 test rows of Anthropic/hh-rlhf (helpful-base, harmless-base) with GPT-2's tokenizer at limits of
384 and 128: 4,170 kept, 112 and 41 tokens."""
TOXICITY_PROMPT_TOKENS = 15
"""Mean of 2,500 RealToxicityPrompts with GPT-2's tokenizer."""
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Sized:
    """A model's sizes and where they come from."""

    model: Architecture
    source: str


@dataclass(frozen=True)
class Setting:
    """Everything that the stages' needs are computed from."""

    config: RunConfig
    policy: Sized
    reward: Sized
    machine: Machine
    rates: Rates
    pairs: int
    """Pairs to train on."""
    pairs_source: str

    @property
    def processes(self) -> int:
        """Over all machines."""
        return self.config.compute.processes

    @property
    def number_bytes(self) -> int:
        """Of a stored weight."""
        return BYTES[self.config.model.dtype]

    @property
    def prompt_tokens(self) -> float:
        """Mean of the data's prompts."""
        return PROMPT_SHARE * self.config.data.max_prompt_tokens

    @property
    def row_tokens(self) -> float:
        """Mean of the data's prompts with an answer."""
        return self.prompt_tokens + ANSWER_SHARE * self.config.data.max_response_tokens

    @property
    def longest_row(self) -> int:
        """The most tokens of a prompt with an answer."""
        return self.config.data.max_prompt_tokens + self.config.data.max_response_tokens


def make_setting(config: RunConfig, machine: Machine, benchmark: Mapping[str, float]) -> Setting:
    """What the plan of a run starts from.  Reads config.json of the user's models and counts the user's rows.

    Raises UserError where a model's sizes are not known.
    """
    policy = size_of(config.model)
    pairs, pairs_source = count_pairs(config.data)
    return Setting(
        config=config,
        policy=policy,
        reward=reward_size(config.reward.path, policy),
        machine=machine,
        rates=rates_of(machine, config, benchmark),
        pairs=pairs,
        pairs_source=pairs_source,
    )


def size_of(model: ModelConfig) -> Sized:
    """Sizes of the base model.  Raises UserError where they are not known."""
    if model.path is not None:
        path = Path(model.path) / "config.json"
        return Sized(_read(path), str(path))
    if model.synthetic is not None:
        made = model.synthetic
        return Sized(gptj(made.hidden_size, made.num_layers, made.vocab_size), "model.synthetic")
    if model.repository not in HUB_MODELS:
        raise UserError(
            f"model.repository ({model.repository}): its sizes are not known before it is there; set model.path to a "
            f"folder that holds its config.json; known without are {', '.join(HUB_MODELS)}"
        )
    return Sized(HUB_MODELS[model.repository], f"config.json of {model.repository}")


def reward_size(path: str | None, policy: Sized) -> Sized:
    """Sizes of the reward model: the base model's, unless a finished one says otherwise."""
    config = Path(path or "") / "config.json"
    if path is not None and config.is_file():
        return Sized(_read(config), str(config))
    return Sized(policy.model, f"taken to be the base model's: {policy.source}" if path else policy.source)


def count_pairs(data: DataConfig) -> tuple[int, str]:
    """Pairs to train on, and where the number comes from."""
    if data.source == SYNTHETIC:
        found, source = data.synthetic_pairs, "data.synthetic_pairs"
    elif data.source == HUB and all(subset in HUB_PAIRS for subset in data.subsets):
        found, source = sum(HUB_PAIRS[subset] for subset in data.subsets), f"data card of {data.repository}"
    else:
        rows = 0 if data.source == HUB else _count_lines(Path(data.source))
        found, source = (rows, data.source) if rows else (UNKNOWN_PAIRS, f"assumed: the rows of {data.source}")
    pairs, source = int(KEPT_SHARE * found), f"{KEPT_SHARE:.0%} kept of {found:,} ({source})"
    if data.max_pairs is not None and data.max_pairs < pairs:
        return data.max_pairs, "data.max_pairs"
    return pairs, source


def _read(path: Path) -> Architecture:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a model in transformers layout") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: not the configuration of a model")
    return read_architecture(config, str(path))


def _count_lines(place: Path) -> int:
    """Rows of JSON Lines at `place`; 0 where there are none to count."""
    files = [place] if place.is_file() else [*place.rglob("*.jsonl"), *place.rglob("*.jsonl.gz")]
    rows = 0
    for path in files:
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
                rows += sum(1 for _ in stream)
    return rows
