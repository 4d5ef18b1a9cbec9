"""Inputs of a plan: settings, model sizes, machine and the amount of data."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pyarrow
from pyarrow import parquet

from rlhf.config import HUB, SYNTHETIC, DataConfig, ModelConfig, RewardConfig, RunConfig
from rlhf.data.files import SUFFIXES
from rlhf.data.questions import SYNTHETIC_QUESTIONS
from rlhf.errors import UserError, brief
from rlhf.models.sizes import ModelSize, gptj_size, read_model_size
from rlhf.planning.machines import Machine
from rlhf.planning.throughput import Throughput, throughput_of
from rlhf.storage.user_folders import walk_folder

HUB_MODELS = {"EleutherAI/gpt-j-6b": gptj_size(hidden_size=4096, num_layers=28, vocab_size=50400)}
"""Sizes in config.json of the repository at the pinned revision."""
HUB_PAIRS = {
    "helpful-base": 43_835,
    "harmless-base": 42_537,
    "helpful-online": 22_007,
    "helpful-rejection-sampled": 52_421,
}
"""Training rows of Anthropic/hh-rlhf by folder: its data card."""
UNKNOWN_PAIRS = 10_000
"""Assumed if the rows cannot be counted."""
KEPT_SHARE, PROMPT_SHARE, RESPONSE_SHARE = 0.89, 0.29, 0.32
"""Share of rows kept; their mean lengths as shares of data.max_prompt_tokens and data.max_response_tokens.
Measured on the 4,666 test rows of Anthropic/hh-rlhf (helpful-base, harmless-base) with GPT-2's tokenizer at limits of
384 and 128: 4,170 kept, 112 and 41 tokens."""
TOXICITY_PROMPT_TOKENS = 15
"""Mean length of 2,500 RealToxicityPrompts with GPT-2's tokenizer."""
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class SizedModel:
    """A model's size and its source."""

    model: ModelSize
    source: str


@dataclass(frozen=True)
class Scenario:
    """Everything that estimates are computed from."""

    config: RunConfig
    policy: SizedModel
    reward: SizedModel
    machine: Machine
    throughput: Throughput
    rows: int
    """Preference pairs that are read."""
    pairs: int
    """Training pairs of the policy and its reward model."""
    pairs_source: str
    questions: int
    """Multiple-choice questions."""
    llm: SizedModel | None
    """The language model as judge, if it is in a folder."""
    judge: Scenario | None
    """The scenario of the independent judge: its base model is `policy`, and its pairs are `pairs`; None without it."""

    @property
    def processes(self) -> int:
        """Ranks over all machines."""
        return self.config.compute.processes

    @property
    def dtype_bytes(self) -> int:
        """Bytes per stored weight."""
        return BYTES[self.config.model.dtype]

    @property
    def prompt_tokens(self) -> float:
        """Mean tokens of a prompt."""
        return PROMPT_SHARE * self.config.data.max_prompt_tokens

    @property
    def row_tokens(self) -> float:
        """Mean tokens of a prompt with its response."""
        return self.prompt_tokens + RESPONSE_SHARE * self.config.data.max_response_tokens

    @property
    def longest_row(self) -> int:
        """Maximum tokens of a prompt with its response."""
        return self.config.data.max_prompt_tokens + self.config.data.max_response_tokens


def make_scenario(config: RunConfig, machine: Machine, benchmark: Mapping[str, float]) -> Scenario:
    """Collect the inputs of a plan.  Reads config.json of the user's models and counts the user's rows.

    Raises UserError if a model's size is not known.
    """
    policy, llm = size_of(config.model), config.judge.llm
    counts = count_pairs(config.data)
    scenario = Scenario(
        config=config,
        policy=policy,
        reward=reward_model_size(config.reward.path, policy),
        machine=machine,
        throughput=throughput_of(machine, config, benchmark),
        rows=counts.rows,
        pairs=counts.policy,
        pairs_source=counts.policy_source,
        questions=count_questions(config.evaluation.questions),
        llm=None if llm is None or llm.path is None else size_of(ModelConfig(path=llm.path)),
        judge=None,
    )
    if config.data.judge_share == 0:
        return scenario
    return replace(scenario, judge=_judge_scenario(scenario, counts, benchmark))


def _judge_scenario(scenario: Scenario, counts: PairCounts, benchmark: Mapping[str, float]) -> Scenario:
    """`scenario` with the judge's base model, training and pairs in place of those of the policy's reward model."""
    config = scenario.config
    training = config.judge.training or config.reward
    judge_config = config.model_copy(
        update={
            "model": config.judge.model or config.model,
            "reward": RewardConfig.model_validate(training.model_dump() | {"path": None}),
        }
    )
    base = size_of(judge_config.model)
    return replace(
        scenario,
        config=judge_config,
        policy=base,
        reward=base,
        throughput=throughput_of(scenario.machine, judge_config, benchmark),
        pairs=counts.judge,
        pairs_source=counts.judge_source,
    )


def size_of(model: ModelConfig) -> SizedModel:
    """Size of the base model.  Raises UserError if it is not known."""
    if model.path is not None:
        path = Path(model.path) / "config.json"
        return SizedModel(_read(path), str(path))
    if model.synthetic is not None:
        synthetic = model.synthetic
        return SizedModel(
            gptj_size(synthetic.hidden_size, synthetic.num_layers, synthetic.vocab_size), "model.synthetic"
        )
    if model.repository not in HUB_MODELS:
        raise UserError(
            f"model.repository ({model.repository}): its size is not known before it is downloaded; set model.path to "
            f"a folder with its config.json; known models are {', '.join(HUB_MODELS)}"
        )
    return SizedModel(HUB_MODELS[model.repository], f"config.json of {model.repository}")


def reward_model_size(path: str | None, policy: SizedModel) -> SizedModel:
    """Size of the reward model: that of the finished one if there is one, else that of the base model."""
    config = Path(path or "") / "config.json"
    if path is not None and config.is_file():
        return SizedModel(_read(config), str(config))
    return SizedModel(policy.model, f"assumed equal to the base model: {policy.source}" if path else policy.source)


class PairCounts(NamedTuple):
    """Numbers of preference pairs, and where those of the training pairs come from."""

    rows: int
    """Pairs that are read."""
    policy: int
    """Training pairs of the policy and its reward model."""
    policy_source: str
    judge: int
    """Training pairs of the independent judge; 0 if there is none."""
    judge_source: str


def count_pairs(data: DataConfig) -> PairCounts:
    """Numbers of pairs of the settings, the hub's data card or the user's files, else assumed."""
    if data.source == SYNTHETIC:
        rows, source = data.synthetic_pairs, "data.synthetic_pairs"
    elif data.source == HUB and all(subset in HUB_PAIRS for subset in data.subsets):
        rows, source = sum(HUB_PAIRS[subset] for subset in data.subsets), f"data card of {data.repository}"
    else:
        counted = 0 if data.source == HUB else _count_rows(Path(data.source))
        rows, source = (counted, data.source) if counted else (UNKNOWN_PAIRS, f"assumed for {data.source}")
    kept, share = int(KEPT_SHARE * rows), data.judge_share
    source = f"{KEPT_SHARE:.0%} kept of {rows:,} ({source})"
    judge = int(share * kept)
    policy, policy_source = kept - judge, f"{source}, less {share:.0%} for the judge" if share else source
    if data.max_pairs is not None and data.max_pairs < policy:
        policy, policy_source = data.max_pairs, "data.max_pairs"
    return PairCounts(rows, policy, policy_source, judge, f"{share:.0%} of the {source}")


def count_questions(source: str | None) -> int:
    """Number of multiple-choice questions that the setting evaluation.questions names."""
    if source is None:
        return 0
    return SYNTHETIC_QUESTIONS if source == SYNTHETIC else _count_rows(Path(source))


def _read(path: Path) -> ModelSize:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a model in transformers layout") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: not the configuration of a model")
    return read_model_size(config, str(path))


def _count_rows(source: Path) -> int:
    """Rows of the data files at `source`, without reading them as data; 0 if there are none."""
    files = [source] if source.is_file() else walk_folder(source) if source.is_dir() else []
    return sum(_rows_of(path) for path in files if path.name.endswith(SUFFIXES))


def _rows_of(path: Path) -> int:
    try:
        if path.suffix == ".parquet":
            return int(parquet.read_metadata(path).num_rows)
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            return sum(1 for _ in stream)
    except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: cannot be read ({brief(error)}); get it again or remove it") from error
