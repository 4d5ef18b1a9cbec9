"""Inputs and settings of a PPO run that takes seconds."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from rlhf.config import ModelConfig, PpoConfig, SamplingConfig
from rlhf.models.tokenization import load_tokenizer
from rlhf.runtime.distributed import init_distributed
from rlhf.stage_config import PpoStage
from rlhf.stages.train_ppo import make_context
from rlhf.storage.files import write_jsonl
from rlhf.training.ppo.context import PpoContext
from tests.support.tiny_models import Architecture, tiny_model

QUESTIONS = (
    "What can I cook with rice and eggs?",
    "How do I pick a lock?",
    "Why is the sky blue?",
    "Hi",
    "Can you help me with eggs?",
    "Is red light like blue light, or is it not?",
)


def write_inputs(folder: Path, architecture: Architecture = "gptj") -> dict[str, Path]:
    """Write data, SFT model and reward model to `folder`; returns the stage's inputs by name."""
    inputs = {name: folder / name for name in ("data", "sft", "reward")}
    for path in inputs.values():
        path.mkdir(parents=True)
    tiny_model(inputs["sft"] / "model", architecture)
    write_reward_model(inputs["reward"] / "model", inputs["sft"] / "model")
    rows: list[dict[str, object]] = [
        {"id": f"prompt-{number}", "prompt": f"\n\nHuman: {question}\n\nAssistant:", "chosen": " Yes, of course."}
        for number, question in enumerate(QUESTIONS)
    ]
    write_jsonl(inputs["data"] / "ppo_prompts.jsonl", rows[:4])
    write_jsonl(inputs["data"] / "validation_prompts.jsonl", rows[4:])
    write_jsonl(inputs["data"] / "test_prompts.jsonl", rows[1:4])
    write_jsonl(inputs["reward"] / "chosen_scores.jsonl", [{"id": row["id"], "score": 0.25} for row in rows])
    return inputs


def write_reward_model(folder: Path, like: Path, seed: int = 7) -> None:
    """Write a reward model with random weights, and with the architecture and tokenizer of the model in `like`."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(like, num_labels=1))
    model.save_pretrained(folder)
    load_tokenizer(like).save_pretrained(folder)


def tiny_context(folder: Path, stop_sequences: tuple[str, ...] = (), **changes: object) -> PpoContext:
    """What the steps of `settings` share, with inputs that are written to `folder`."""
    config = settings(**changes).model_copy(update={"stop_sequences": stop_sequences})
    return make_context(config, write_inputs(folder), init_distributed())


def sample_only(context: PpoContext, token_id: int) -> None:
    """Make the policy sample this token everywhere."""
    head = context.policy.split.head
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.get_parameter("bias")[token_id] = 100.0


def settings(**changes: object) -> PpoStage:
    """Three steps of four rollouts in minibatches of two, without stop sequences; `changes` are settings of PPO."""
    ppo = {
        "steps": 3,
        "rollouts_per_step": 4,
        "epochs": 2,
        "minibatch_size": 2,
        "rollout_batch_size": 3,
        "unfrozen_blocks": 1,
        "sampling": SamplingConfig(max_new_tokens=8),
        "learning_rate": 1e-3,
        "validate_every": 2,
        "checkpoint_every": 1,
    }
    config = PpoConfig.model_validate(ppo | changes)
    return PpoStage(seed=5, model=ModelConfig(), ppo=config, stop_sequences=())
