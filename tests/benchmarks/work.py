"""Workload that every side of the PPO benchmark runs: models of random weights, prompts, settings.

Every token is one character, so that policy and reward model agree on tokens.  The EOS, spaces and letters that could
spell a stop sequence are never sampled, so every response has full length and both sides do the same work.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from tokenizers import Tokenizer, decoders, models
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPTJConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from rlhf.config import ModelConfig, PpoConfig, ResponsesConfig, SamplingConfig
from rlhf.models.loading import Dtype
from rlhf.stage_config import PpoStage
from rlhf.storage.files import write_jsonl
from tests.benchmarks.measure import CPU

END = "<end>"
NEVER = -1e4
"""Logit of tokens that are not sampled: their probability is 0 in float32, and all numbers stay finite."""
ASCII = "\n" + "".join(map(chr, range(0x20, 0x7F)))
IDEOGRAPHS = "".join(map(chr, [*range(0x4E00, 0xA000), *range(0x20000, 0x2A6E0)]))


class Work(BaseModel):
    """Sizes of the workload.  The defaults are those of the headline result: a GPT-J of 31M parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    hidden_size: int = 384
    num_layers: int = 14
    num_heads: int = 6
    rotary_size: int = 64
    vocab_size: int = 8192
    unfrozen_blocks: int = 2
    prompt_tokens: int = 64
    response_tokens: int = 64
    rollouts: int = 64
    epochs: int = 4
    minibatch: int = 4
    chunk: int = 16
    """Prompts that the reference loop responds to and scores at once."""
    dtype: Dtype = "float32"
    warm_up: bool = False
    """Whether to run the complete workload once before measuring, because GPU libraries initialize in the first run."""

    @property
    def parameters(self) -> int:
        """Parameters of the policy without a value head."""
        block, ends = 12 * self.hidden_size**2 + 7 * self.hidden_size, (2 * self.hidden_size + 1) * self.vocab_size
        return self.num_layers * block + ends + 2 * self.hidden_size

    @property
    def weight_bytes(self) -> int:
        """Bytes per weight."""
        return 2 if self.dtype == "bfloat16" else 4

    @property
    def sequence_tokens(self) -> int:
        """Tokens of a prompt with its response."""
        return self.prompt_tokens + self.response_tokens

    def model(self) -> GPTJConfig:
        """Configuration of the policy and the reward model."""
        return GPTJConfig(
            n_embd=self.hidden_size,
            n_layer=self.num_layers,
            n_head=self.num_heads,
            n_positions=4 * self.sequence_tokens,
            rotary_dim=self.rotary_size,
            vocab_size=self.vocab_size,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )

    def stage(self) -> PpoStage:
        """Settings of this package's PPO engine: those of the recipe, and trlx's computation of scores."""
        ppo = PpoConfig(
            steps=1,
            rollouts_per_step=self.rollouts,
            epochs=self.epochs,
            minibatch_size=self.minibatch,
            rollout_batch_size=64,
            unfrozen_blocks=self.unfrozen_blocks,
            sampling=SamplingConfig(max_new_tokens=self.response_tokens),
            missing_eos_penalty=0,
        )
        stop_sequences = ResponsesConfig().stop_sequences
        return PpoStage(seed=1, model=ModelConfig(dtype=self.dtype), ppo=ppo, stop_sequences=stop_sequences)


def make_inputs(folder: Path, work: Work, device: torch.device = CPU) -> None:
    """Write `work.json` and the outputs of the stages before PPO: data, SFT model, reward model.

    The weights are initialized on `device`; a CPU needs minutes for 6B parameters.
    """
    torch.manual_seed(0)
    tokenizer = _tokenizer(work.vocab_size)
    for path, kind in (
        (folder / "sft" / "model", AutoModelForCausalLM),
        (folder / "reward" / "model", AutoModelForSequenceClassification),
    ):
        config = work.model()
        config.num_labels = 1
        with device:
            model = kind.from_config(config, dtype=getattr(torch, work.dtype))
        if kind is AutoModelForCausalLM:
            model.lm_head.bias.data[: 1 + len(ASCII)] = NEVER
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        del model
    rows: list[dict[str, object]] = [
        {
            "id": str(number),
            "prompt": _text(work.prompt_tokens, work.vocab_size),
            "chosen": _text(work.response_tokens, work.vocab_size),
        }
        for number in range(work.rollouts)
    ]
    (folder / "data").mkdir()
    write_jsonl(folder / "data" / "ppo_prompts.jsonl", rows)
    write_jsonl(folder / "data" / "validation_prompts.jsonl", rows[:1])
    write_jsonl(folder / "reward" / "chosen_scores.jsonl", [{"id": row["id"], "score": 0.0} for row in rows])
    (folder / "work.json").write_text(work.model_dump_json())


def read_work(folder: Path) -> Work:
    """The sizes of the inputs in `folder`."""
    return Work.model_validate(json.loads((folder / "work.json").read_text()))


def as_published(kind: Any, folder: Path, dtype: Dtype) -> PreTrainedModel:
    """The model in `folder` with transformers' own kernels, as trlx and the published notebook load it."""
    model: PreTrainedModel = kind.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return model.eval()


def stage_inputs(folder: Path) -> dict[str, Path]:
    """The inputs of train_ppo by name."""
    return {name: folder / name for name in ("data", "sft", "reward")}


def _tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    characters = (ASCII + IDEOGRAPHS)[: vocab_size - 1]
    tokenizer = Tokenizer(models.BPE({END: 0} | {text: index for index, text in enumerate(characters, start=1)}, []))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)


def _text(count: int, vocab_size: int) -> str:
    """As many random ideographs."""
    return "".join(IDEOGRAPHS[index] for index in torch.randint(vocab_size - 1 - len(ASCII), (count,)).tolist())
