"""Stage: supervised fine-tuning of the base model on the chosen responses of the dialogues.

The loss is the mean negative log-likelihood, in nats per token, of the response and its EOS; the prompt is context
only.  The validation loss is the mean over the validation batches.  Dropout is that of the model's configuration.  The
output is the model after the last step.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from rlhf.models.loading import keep_use_cache, load_causal_lm, save_model
from rlhf.models.tokenization import context_length, encode_prompt, encode_response, load_tokenizer, require_fit
from rlhf.runtime.distributed import init_distributed
from rlhf.runtime.stage import is_main_process, main
from rlhf.runtime.trackers import tracker_session
from rlhf.stage_config import SftStage
from rlhf.storage.files import read_jsonl
from rlhf.training.trl_trainer import (
    METRICS,
    EncodedRow,
    read_rows,
    train,
    training_arguments,
    training_rows,
    validation_rows,
)

NO_LOSS = -100
"""Label of a token that is context only."""


def train_sft(config: SftStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Fine-tune inputs["model"] on inputs["data"]; writes model/ and metrics.jsonl to `output`."""
    if not (output / "model").is_dir():
        with tracker_session(config):
            weights = fine_tune(config, inputs["model"] / "model", inputs["data"], output)
        if is_main_process():
            base, model = inputs["model"] / "model", load_causal_lm(weights, config.model.dtype)
            keep_use_cache(model, base)
            save_model(model, load_tokenizer(base), output / "model")
        init_distributed().wait_for_everyone()
    rows = cast(list[dict[str, float]], read_jsonl(output / METRICS))
    losses = [row["validation_loss"] for row in rows if "validation_loss" in row]
    return {"validation_loss_first": losses[0], "validation_loss_last": losses[-1], "steps": rows[-1]["step"]}


def fine_tune(config: SftStage, base: Path, data: Path, output: Path) -> Path:
    """Train to the end, from a checkpoint if there is one; returns the folder of the float32 weights."""
    tokenizer = load_tokenizer(base)
    model = load_causal_lm(base, "float32")
    rows = encode_rows(data / "demonstrations.jsonl", tokenizer, model)
    validation = encode_rows(data / "validation_demonstrations.jsonl", tokenizer, model)
    arguments = training_arguments(config.sft, model=model, dtype=config.model.dtype, seed=config.seed, output=output)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**arguments, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=training_rows(rows, config.sft, config.seed),
        eval_dataset=validation_rows(validation),
        processing_class=tokenizer,
    )
    return train(trainer, "fine-tuning", output, epochs_per_step=config.sft.batch_size / len(rows))


def encode_rows(path: Path, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> list[EncodedRow]:
    """Rows {input_ids, labels} of a file of demonstrations; labels are the response's ids with its EOS, else -100.

    Raises UserError if the file has no rows, or if a row is longer than the model's context.
    """
    encoded, context = [], context_length(model.config)
    for row in read_rows(path):
        prompt, response = encode_prompt(tokenizer, row["prompt"]), encode_response(tokenizer, row["response"])
        require_fit(f"row {row['id']}", len(prompt + response), context)
        encoded.append({"input_ids": prompt + response, "labels": [NO_LOSS] * len(prompt) + response})
    return encoded


if __name__ == "__main__":
    main(SftStage, train_sft)
