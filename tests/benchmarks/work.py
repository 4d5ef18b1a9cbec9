"""The work that every side of the PPO benchmark does: models of random weights, prompts, settings.

The tokenizer has a word per token, so that text and tokens are the same to policy and reward model.  The EOS is never
drawn, so every answer has full length and both sides do the same work.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPTJConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from rlhf.config import ModelConfig, PpoConfig, SamplingConfig
from rlhf.models.loading import Dtype
from rlhf.stage_config import PpoStage
from rlhf.storage.files import write_jsonl
from tests.benchmarks.measure import CPU

END = "<end>"
NEVER = -1e4
"""Logit of the EOS: its probability is 0 in float32, and nothing becomes infinite."""


class Work(BaseModel):
    """Sizes.  The defaults are those of the headline figure: a GPT-J of 31M parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    width: int = 384
    blocks: int = 14
    heads: int = 6
    rotary: int = 64
    vocabulary: int = 8192
    unfrozen_blocks: int = 2
    prompt_tokens: int = 64
    response_tokens: int = 64
    rollouts: int = 64
    epochs: int = 4
    minibatch: int = 4
    chunk: int = 16
    """Prompts that the reference loop answers and scores at once."""

    dtype: Dtype = "float32"
    warm_up: bool = False
    """Whether the whole work is done once before it is measured, as libraries on a GPU set themselves up in it."""

    @property
    def parameters(self) -> int:
        """Weights of the policy without a value head."""
        block, ends = 12 * self.width**2 + 7 * self.width, 2 * self.vocabulary * self.width + self.vocabulary
        return self.blocks * block + ends + 2 * self.width

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight."""
        return 2 if self.dtype == "bfloat16" else 4

    @property
    def sequence_tokens(self) -> int:
        """Tokens of a prompt with its answer."""
        return self.prompt_tokens + self.response_tokens

    def model(self) -> GPTJConfig:
        """The policy's and the reward model's configuration."""
        return GPTJConfig(
            n_embd=self.width,
            n_layer=self.blocks,
            n_head=self.heads,
            n_positions=4 * self.sequence_tokens,
            rotary_dim=self.rotary,
            vocab_size=self.vocabulary,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )

    def stage(self) -> PpoStage:
        """The settings of our engine."""
        ppo = PpoConfig(
            steps=1,
            rollouts_per_step=self.rollouts,
            epochs=self.epochs,
            minibatch_size=self.minibatch,
            rollout_batch_size=64,
            unfrozen_blocks=self.unfrozen_blocks,
            sampling=SamplingConfig(max_new_tokens=self.response_tokens),
        )
        return PpoStage(seed=1, model=ModelConfig(dtype=self.dtype), ppo=ppo)


def make_inputs(folder: Path, work: Work, device: torch.device = CPU) -> None:
    """Write `work.json` and what the steps before PPO would have left: data, SFT model, reward model.

    `device` draws the weights, which takes a CPU minutes at 6B.
    """
    torch.manual_seed(0)
    tokenizer = _tokenizer(work.vocabulary)
    for path, kind in (
        (folder / "sft" / "model", AutoModelForCausalLM),
        (folder / "reward" / "model", AutoModelForSequenceClassification),
    ):
        config = work.model()
        config.num_labels = 1
        with device:
            model = kind.from_config(config, dtype=getattr(torch, work.dtype))
        if kind is AutoModelForCausalLM:
            model.lm_head.bias.data[tokenizer.eos_token_id] = NEVER
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        del model
    rows: list[dict[str, object]] = [
        {
            "id": str(number),
            "prompt": _words(work.prompt_tokens, work.vocabulary),
            "chosen": " " + _words(work.response_tokens, work.vocabulary),
        }
        for number in range(work.rollouts)
    ]
    (folder / "data").mkdir()
    write_jsonl(folder / "data" / "ppo_prompts.jsonl", rows)
    write_jsonl(folder / "data" / "validation_prompts.jsonl", rows[:1])
    write_jsonl(folder / "reward" / "chosen_scores.jsonl", [{"id": row["id"], "score": 0.0} for row in rows])
    (folder / "work.json").write_text(work.model_dump_json())


def read_work(folder: Path) -> Work:
    """The sizes that `folder` was made for."""
    return Work.model_validate(json.loads((folder / "work.json").read_text()))


def as_published(kind: Any, folder: Path, dtype: Dtype) -> PreTrainedModel:
    """The model in `folder` with transformers' own kernels, as trlx and the published notebook load it."""
    model: PreTrainedModel = kind.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return model.eval()


def stage_inputs(folder: Path) -> dict[str, Path]:
    """The inputs of train_ppo by name."""
    return {name: folder / name for name in ("data", "sft", "reward")}


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    words = {END: 0} | {f"w{number}": number for number in range(1, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)


def _words(count: int, vocabulary: int) -> str:
    return " ".join(f"w{number}" for number in torch.randint(1, vocabulary, (count,)).tolist())
