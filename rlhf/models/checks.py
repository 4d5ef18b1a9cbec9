"""Reads a base model of unknown origin, and refuses one that a later stage could not use.

Every failed check is one UserError that names path, problem and remedy.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.models.loading import Dtype, load_causal_lm
from rlhf.models.tokenization import load_tokenizer

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
"""Files with a vocabulary.  Without any of them, transformers would use an empty vocabulary for some architectures."""
LAYOUT = "give a folder as save_pretrained of transformers writes it"


def read_model(folder: Path, dtype: Dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal language model in `folder` and its tokenizer.  Raises UserError if a check fails."""
    require_known_architecture(folder)
    weights = find_weights(folder)
    require_vocabulary(folder)
    tokenizer = load_tokenizer(folder)
    try:
        model = load_causal_lm(folder, dtype) if weights == SAFETENSORS else load_pickled(folder, dtype)
    except SafetensorError as error:
        raise UserError(f"{folder}: safetensors are damaged ({error}); copy them again") from error
    require_matching_vocabulary(folder, model, tokenizer)
    require_causal(folder, model)
    return model, tokenizer


def require_known_architecture(folder: Path) -> None:
    """Raise UserError if config.json is missing or damaged, or names a model that transformers has no code for."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{path}: missing; {LAYOUT}")
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); copy the model's own config.json again") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type not in CONFIG_MAPPING:
        raise UserError(
            f"{path}: model_type ({model_type}) is not one that transformers {transformers.__version__} knows, and "
            "code from a model folder is never run; use a model of a known architecture"
        )


def find_weights(folder: Path) -> str:
    """The kind of weights in `folder`: SAFETENSORS or PICKLE, the first if there are both.

    Raises UserError if there are none, or if shards that the index names are missing.
    """
    for name in (SAFETENSORS, PICKLE):
        if (folder / name).is_file():
            return name
        index = folder / f"{name}.index.json"
        if index.is_file():
            require_shards(folder, index)
            return name
    raise UserError(f"{folder}: no weights ({SAFETENSORS} or {PICKLE}, unsplit or with an index of shards); {LAYOUT}")


def require_shards(folder: Path, index: Path) -> None:
    """Raise UserError if the index of shards is damaged, or if `folder` lacks a shard that it names."""
    try:
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: not an index of shards; copy the model's own again") from error
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise UserError(f"{folder}: {len(missing)} of {len(shards)} shards are missing ({missing[0]}); copy them")


def require_vocabulary(folder: Path) -> None:
    """Raise UserError if `folder` has none of TOKENIZER_FILES."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"{folder}: no tokenizer ({', '.join(TOKENIZER_FILES)} are all missing); add that of the model")


def load_pickled(folder: Path, dtype: Dtype) -> PreTrainedModel:
    """The model in `folder`, in evaluation mode, from pytorch_model.bin, which is read without running its code.

    Raises UserError if the file contains anything but tensors, or not all tensors of the model.
    """
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=False,
            weights_only=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{folder}: {PICKLE} is damaged, of another model, or contains more than tensors ({type(error).__name__}); "
            "convert it to safetensors if you trust it, or copy it again"
        ) from error
    if report["missing_keys"] or report["mismatched_keys"]:
        names = ", ".join(sorted(map(str, {*report["missing_keys"], *report["mismatched_keys"]}))[:5])
        raise UserError(f"{folder}: tensors of the model are not in {PICKLE} as config.json says ({names}); {LAYOUT}")
    loaded: PreTrainedModel = model
    return loaded


def require_matching_vocabulary(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError if the tokenizer produces ids for which the model has no embedding."""
    rows, highest = model.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise UserError(
            f"{folder}: the tokenizer's ids go up to {highest}, but the model has {rows} embeddings; "
            "use the tokenizer that the model was trained with"
        )


def require_causal(folder: Path, model: PreTrainedModel) -> None:
    """Raise UserError if the model's output is not finite, or if it depends on later tokens.

    Compares the logits of two inputs that differ only in the last token.
    """
    first, second = torch.arange(8).unsqueeze(0), torch.arange(8).unsqueeze(0)
    second[0, -1] = 0
    with torch.no_grad():
        logits, other_logits = (model(input_ids=ids, use_cache=False).logits[0, :-1].float() for ids in (first, second))
    if not torch.isfinite(logits).all():
        raise UserError(f"{folder}: the model's output is not finite; the weights are damaged, copy them again")
    if (logits - other_logits).abs().max() > 1e-3 * logits.std():
        raise UserError(
            f"{folder}: the output of {type(model).__name__} depends on later tokens; use a model that was trained to "
            "generate text"
        )
