"""Stage: trains a reward model on pairs of responses of which people prefer one, or imports a published one.

The loss is that of Bradley and Terry, `-log sigmoid(score(chosen) - score(rejected))`, in nats per pair; dropout is
off.  In both cases the model is evaluated on the validation pairs, and scores the chosen response of every prompt once:
PPO compares with these scores.
"""

from __future__ import annotations

import json
from pathlib import Path

from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import RewardConfig, RewardTrainer

from rlhf.evaluation.reward_calibration import evaluate_margins
from rlhf.models.checks import has_vocabulary, require_matching_vocabulary
from rlhf.models.limits import SCORING_FACTOR
from rlhf.models.loading import keep_use_cache, load_reward_model, new_reward_model, save_model
from rlhf.models.reward_model import RewardModel
from rlhf.models.tokenization import context_length, encode_prompt, encode_response, load_tokenizer, require_fit
from rlhf.runtime.distributed import init_distributed
from rlhf.runtime.seeds import derive_seed
from rlhf.runtime.stage import is_main_process, main, progress
from rlhf.runtime.trackers import tracker_session
from rlhf.stage_config import JudgeStage, RewardStage
from rlhf.storage.files import write_atomically, write_jsonl
from rlhf.training.trl_trainer import (
    EncodedRow,
    read_rows,
    train,
    training_arguments,
    training_rows,
    validation_rows,
)

PROMPT_FILES = ("ppo_prompts.jsonl", "validation_prompts.jsonl", "test_prompts.jsonl")


def train_reward(config: RewardStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Train a model on inputs["data"], or import inputs["source"]; evaluate it and score the chosen responses.

    With `control: shuffled`, chosen and rejected of each training pair are swapped by a seeded coin.
    Writes model/, evaluation.json and chosen_scores.jsonl to `output`, and metrics.jsonl if a model is trained.
    """
    data = inputs["data"]
    if "source" in inputs and not (output / "model").is_dir():
        import_reward_model(inputs["source"], inputs["model"] / "model", config, output)
        init_distributed().wait_for_everyone()
    shuffle_seed = config.seed if config.control == "shuffled" else None
    reward, metrics = train_and_evaluate(config, inputs, output, "preferences.jsonl", shuffle_seed)

    prompts = [row for name in PROMPT_FILES for row in read_rows(data / name)]
    batch_size = SCORING_FACTOR * config.reward.device_batch_size
    scores = score_distributed(reward, prompts, "chosen", batch_size, "scoring chosen responses")
    if is_main_process():
        rows = [{"id": row["id"], "score": score} for row, score in zip(prompts, scores, strict=True)]
        write_jsonl(output / "chosen_scores.jsonl", rows)
    return metrics


def train_and_evaluate(
    config: RewardStage | JudgeStage, inputs: dict[str, Path], output: Path, pairs: str, shuffle_seed: int | None = None
) -> tuple[RewardModel, dict[str, float]]:
    """Train on the file `pairs` of inputs["data"] unless model/ exists, and measure on the validation pairs.

    Writes model/, metrics.jsonl and evaluation.json; returns the model and the metrics of its evaluation.
    """
    data = inputs["data"]
    if not (output / "model").is_dir():
        with tracker_session(config):
            train_reward_model(config, inputs["model"] / "model", output, pairs=data / pairs, shuffle_seed=shuffle_seed)
        clear_device_cache(garbage_collection=True)  # frees the trainer's memory before the model is loaded
        init_distributed().wait_for_everyone()

    reward = RewardModel.load(output / "model", config.model.dtype, init_distributed().device)
    batch_size = SCORING_FACTOR * config.reward.device_batch_size
    validation = read_rows(data / "validation_preferences.jsonl")
    chosen = score_distributed(reward, validation, "chosen", batch_size, "scoring validation pairs: chosen")
    rejected = score_distributed(reward, validation, "rejected", batch_size, "scoring validation pairs: rejected")
    evaluation = evaluate_margins([better - worse for better, worse in zip(chosen, rejected, strict=True)])
    if is_main_process():
        write_atomically(output / "evaluation.json", json.dumps(evaluation, indent=2))
    return reward, {name: value for name, value in evaluation.items() if isinstance(value, float | int)}


def train_reward_model(
    config: RewardStage | JudgeStage, base: Path, output: Path, *, pairs: Path, shuffle_seed: int | None
) -> None:
    """Train to the end, from a checkpoint if there is one, and write model/ and metrics.jsonl."""
    model, tokenizer = new_reward_model(base, "float32", config.seed)
    rows = encode_pairs(pairs, tokenizer, model)
    if shuffle_seed is not None:
        rows = shuffle_labels(rows, shuffle_seed)
    validation = encode_pairs(pairs.with_name("validation_preferences.jsonl"), tokenizer, model)
    arguments = training_arguments(
        config.reward, model=model, dtype=config.model.dtype, seed=config.seed, output=output
    )
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(**arguments),
        train_dataset=training_rows(rows, config.reward, config.seed),
        eval_dataset=validation_rows(validation),
        processing_class=tokenizer,
    )
    epochs_per_step = config.reward.batch_size / len(rows)
    weights = train(trainer, "training the reward model", output, epochs_per_step=epochs_per_step)
    if is_main_process():
        trained = load_reward_model(weights, config.model.dtype)
        keep_use_cache(trained, base)
        save_model(trained, tokenizer, output / "model")


def import_reward_model(source: Path, base: Path, config: RewardStage, output: Path) -> None:
    """Save the published reward model at `source` as model/, with the base model's tokenizer if it has none.

    Raises UserError if the tokenizer produces ids for which the reward model has no embedding.
    """
    if is_main_process():
        model = load_reward_model(source, config.model.dtype, base)
        folder = source if source.is_dir() else source.parent
        tokenizer = load_tokenizer(folder if has_vocabulary(folder) else base)
        require_matching_vocabulary(folder, model, tokenizer)
        save_model(model, tokenizer, output / "model")


def encode_pairs(path: Path, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> list[EncodedRow]:
    """Rows {chosen_ids, rejected_ids} of a file of preferences: prompt, response and EOS.

    Raises UserError if the file has no rows, or if a row is longer than the model's context.
    """
    encoded, context = [], context_length(model.config)
    for row in read_rows(path):
        prompt = encode_prompt(tokenizer, row["prompt"])
        ids = {f"{side}_ids": prompt + encode_response(tokenizer, row[side]) for side in ("chosen", "rejected")}
        require_fit(f"row {row['id']}", max(map(len, ids.values())), context)
        encoded.append(ids)
    return encoded


def shuffle_labels(rows: list[EncodedRow], seed: int) -> list[EncodedRow]:
    """The rows with chosen and rejected swapped in those for which a seeded coin says so."""
    return [
        {"chosen_ids": row["rejected_ids"], "rejected_ids": row["chosen_ids"]}
        if derive_seed(seed, "shuffled labels", str(number)) % 2
        else row
        for number, row in enumerate(rows)
    ]


def score_distributed(
    reward: RewardModel, rows: list[dict[str, str]], response: str, batch_size: int, phase: str
) -> list[float]:
    """Scores of row[response] to row["prompt"], in the rows' order; each rank scores its share and returns all."""
    state = init_distributed()
    indices = range(state.process_index, len(rows), state.num_processes)
    scored = reward.score(
        [rows[index]["prompt"] for index in indices],
        [rows[index][response] for index in indices],
        batch_size,
        lambda done: progress(phase, done, len(indices)),
    )
    gathered: list[tuple[int, float]] = gather_object(list(zip(indices, scored.tolist(), strict=True)))
    return [score for _, score in sorted(gathered)]


if __name__ == "__main__":
    main(RewardStage, train_reward)
