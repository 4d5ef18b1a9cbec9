"""Stage: bring the base model into one layout.

The model is the user's folder (input `source`), a synthetic model that this stage trains, or one from the hub.

Makes `model/`: config.json, safetensors in `model.dtype`, a tokenizer with an EOS and a pad token, and a generation
config with nothing but these tokens, because this package has its own sampling settings.  The chat template is that of
the dialogues on which all later models are trained, whatever the base model had.  Training a synthetic model
also makes metrics.jsonl.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config import ModelConfig
from rlhf.data.hub import download_model
from rlhf.models.chat_template import dialogue_template
from rlhf.models.checks import read_model
from rlhf.models.loading import save_model
from rlhf.models.synthetic_model import train_synthetic_model
from rlhf.runtime.stage import is_main_process, main, note
from rlhf.stage_config import ModelStage


def prepare_model(config: ModelStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Write `model/`; returns the number of parameters and, for a synthetic model, the last loss."""
    settings = config.model
    if "source" not in inputs and settings.synthetic is not None:
        trained = train_synthetic_model(settings.synthetic, config.seed, output)
        if is_main_process():
            write_model(trained.model.to(getattr(torch, settings.dtype)), trained.tokenizer, output)
        return {"parameters": trained.model.num_parameters(), "loss": trained.loss}
    if not is_main_process():
        return {}
    source = inputs["source"] if "source" in inputs else _download(settings)
    model, tokenizer = read_model(source, settings.dtype, trains_reward_model=config.trains_reward_model)
    write_model(model, tokenizer, output)
    return {"parameters": model.num_parameters()}


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, output: Path) -> None:
    """Write `output`/model."""
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    tokenizer.chat_template = dialogue_template(tokenizer)
    save_model(model, tokenizer, output / "model")


def _download(settings: ModelConfig) -> Path:
    note(f"downloading {settings.repository} at {settings.revision}")
    return download_model(settings.repository, settings.revision)


if __name__ == "__main__":
    main(ModelStage, prepare_model)
