"""Reward model: learns from pairs of answers which one people prefer, or is taken over as published.

The loss is that of Bradley and Terry, `-log sigmoid(score(chosen) - score(rejected))`, in nats per pair; dropout is
off.  Either way the model is measured on held-out pairs, and scores the chosen answer of every prompt once, which is
what PPO compares with.
"""

from __future__ import annotations

import json
from pathlib import Path

from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import RewardConfig, RewardTrainer

from rlhf.evaluation.reward_calibration import evaluate_margins
from rlhf.models.loading import load_reward_model, new_reward_model, save_model
from rlhf.models.reward_model import RewardModel
from rlhf.models.tokenization import encode_response, encode_prompt, load_tokenizer
from rlhf.runtime.stage import is_main_process, main, progress
from rlhf.runtime.trackers import tracked
from rlhf.stage_config import RewardStage
from rlhf.storage.files import write_atomically, write_jsonl
from rlhf.training.trl_trainer import (
    EncodedRow,
    validation_rows,
    read_rows,
    require_fitting,
    this_process,
    train,
    training_arguments,
    training_rows,
)

PROMPT_FILES = ("ppo_prompts.jsonl", "validation_prompts.jsonl", "test_prompts.jsonl")
SCORING_FACTOR = 4
"""Dialogues scored at once for each pair held in training, which needs memory for gradients and optimizer too."""


def train_reward(config: RewardStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Train a model on inputs["data"], or adopt that in inputs["source"]; measure it and score the chosen answers.

    Writes model/, evaluation.json and chosen_scores.jsonl to `output`, and metrics.jsonl where a model is trained.
    """
    base, data = inputs["model"] / "model", inputs["data"]
    if not (output / "model").is_dir():
        if "source" in inputs:
            adopt(inputs["source"], base, config, output)
        else:
            with tracked(config):
                fit(config, base, data, output)
            clear_device_cache(garbage_collection=True)  # the trainer's memory, before the model is loaded anew
        this_process().wait_for_everyone()

    reward = RewardModel.load(output / "model", config.model.dtype, this_process().device)
    batch_size = SCORING_FACTOR * config.reward.device_batch_size
    pairs = read_rows(data / "validation_preferences.jsonl")
    chosen = score_all(reward, pairs, "chosen", batch_size, "scoring held-out pairs: chosen")
    rejected = score_all(reward, pairs, "rejected", batch_size, "scoring held-out pairs: rejected")
    evaluation = evaluate_margins([better - worse for better, worse in zip(chosen, rejected, strict=True)])

    prompts = [row for name in PROMPT_FILES for row in read_rows(data / name)]
    scores = score_all(reward, prompts, "chosen", batch_size, "scoring chosen answers")
    if is_main_process():
        write_atomically(output / "evaluation.json", json.dumps(evaluation, indent=2))
        scored = zip(prompts, scores, strict=True)
        write_jsonl(output / "chosen_scores.jsonl", [{"id": row["id"], "score": score} for row, score in scored])
    return {name: value for name, value in evaluation.items() if isinstance(value, float | int)}


def fit(config: RewardStage, base: Path, data: Path, output: Path) -> None:
    """Train to the end, from a checkpoint where there is one, and write model/ and metrics.jsonl."""
    model, tokenizer = new_reward_model(base, "float32", config.seed)
    rows = encode_pairs(data / "preferences.jsonl", tokenizer, model)
    held_out = encode_pairs(data / "validation_preferences.jsonl", tokenizer, model)
    arguments = training_arguments(
        config.reward, model=model, dtype=config.model.dtype, seed=config.seed, output=output
    )
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(**arguments),
        train_dataset=training_rows(rows, config.reward, config.seed),
        eval_dataset=validation_rows(held_out),
        processing_class=tokenizer,
    )
    epochs_per_step = config.reward.batch_size / len(rows)
    weights = train(trainer, "training the reward model", output, epochs_per_step=epochs_per_step)
    if is_main_process():
        save_model(load_reward_model(weights, config.model.dtype), tokenizer, output / "model")


def adopt(source: Path, base: Path, config: RewardStage, output: Path) -> None:
    """Write the published reward model at `source` as model/, with the base model's tokenizer where it has none."""
    if is_main_process():
        model = load_reward_model(source, config.model.dtype, base)
        own = source if source.is_dir() else source.parent
        has_tokenizer = any((own / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
        save_model(model, load_tokenizer(own if has_tokenizer else base), output / "model")


def encode_pairs(path: Path, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> list[EncodedRow]:
    """Rows {chosen_ids, rejected_ids} of a file of preferences: prompt, answer and EOS.

    Raises UserError where the file has no rows, or one that is longer than the model's context.
    """
    encoded = []
    for row in read_rows(path):
        prompt = encode_prompt(tokenizer, row["prompt"])
        ids = {f"{side}_ids": prompt + encode_response(tokenizer, row[side]) for side in ("chosen", "rejected")}
        require_fitting(row, max(ids.values(), key=len), model)
        encoded.append(ids)
    return encoded


def score_all(reward: RewardModel, rows: list[dict[str, str]], answer: str, batch_size: int, phase: str) -> list[float]:
    """Scores of row[answer] to row["prompt"], in the rows' order; each process scores its share and has them all."""
    state = this_process()
    mine = range(state.process_index, len(rows), state.num_processes)
    scored = reward.score(
        [rows[index]["prompt"] for index in mine],
        [rows[index][answer] for index in mine],
        batch_size,
        lambda done: progress(phase, done, len(mine)),
    )
    gathered: list[tuple[int, float]] = gather_object(list(zip(mine, scored.tolist(), strict=True)))
    return [score for _, score in sorted(gathered)]


if __name__ == "__main__":
    main(RewardStage, train_reward)
