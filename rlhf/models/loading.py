"""Loads and saves models and tokenizers in folders of transformers layout, for all stages.

Nothing is downloaded and no code from a model folder is run: pickles are read as plain tensors.  A folder is checked
from its config.json and the headers of its weights before memory is allocated for it.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from rlhf.errors import UserError, brief, user_message
from rlhf.models.config_file import read_config, require_size
from rlhf.models.kernels import patch_fast_kernels
from rlhf.models.pickled_reward_model import find_pickle, read_pickled_reward_model
from rlhf.models.tokenization import load_tokenizer
from rlhf.models.weight_files import SAFETENSORS, WRAPPED, find_weights
from rlhf.storage.files import replace_folder
from rlhf.storage.untrusted import parse_json, read_regular_file

if TYPE_CHECKING:
    from transformers import PreTrainedConfig  # the transformers that trlx needs has another name for it

Dtype = Literal["float32", "bfloat16"]
SCORE_WEIGHT = "score.weight"
"""Weight of the reward model's linear head: hidden state to score, without bias."""
PAD = "<|pad|>"
"""Pad token of reward models whose base model has none."""
ONE_LABEL = {"num_labels": 1, "id2label": None, "label2id": None, "problem_type": None}
"""Changes of a configuration that make its model one with a single output."""
OF_BLOCK = re.compile(r"\.\d+\..*\.(weight|bias)$")
"""Tensors of blocks, none of which may be left over."""
NOT_OF_MODEL = re.compile(r"(attn|attention)\.(masked_)?bias$|vision|audio|mtp")
"""Exceptions: masks that older versions of transformers saved, and parts for other inputs than text."""
GENERATION = "generation_config.json"
MAX_GENERATION_BYTES = 1_000_000


def load_causal_lm(folder: Path, dtype: Dtype) -> PreTrainedModel:
    """Load the causal language model in `folder`, in evaluation mode, on the CPU.

    Raises UserError if the folder has no complete model: no weights, or tensors missing from them.
    """
    model, missing = load_model(AutoModelForCausalLM, folder, read_config(folder), dtype)
    require_complete(folder, missing)
    head = model.get_output_embeddings()
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = False  # other readers would go by it, and not use the head in the file
    return patch_fast_kernels(model)


def load_reward_model(folder: Path, dtype: Dtype, base: Path | None = None) -> PreTrainedModel:
    """Load the reward model in `folder`, in evaluation mode, on the CPU: sequence classification with one label.

    Its bias-free head `score` computes the score of a text from the last hidden state of the text's last token.
    The number of labels is that of the head, whatever config.json says.  `folder` may also contain a pickle of another
    layout (see `rlhf.models.pickled_reward_model`); if it has no configuration, that of `base` is used.
    Raises UserError if the model is of another kind, or if its head was never trained.
    """
    if (pickle := find_pickle(folder)) is not None:
        return read_pickled_reward_model(pickle, dtype, base)
    config, renamed = _read_reward_config(folder)
    model, missing = load_model(AutoModelForSequenceClassification, folder, config, dtype, renamed)
    require_complete(folder, missing)
    require_score_head(folder, model)
    return patch_fast_kernels(model)


def new_reward_model(folder: Path, dtype: Dtype, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal language model in `folder` with a score head in place of its output layer, and its tokenizer.

    `seed` draws the head from N(0, 1 / (hidden size + 1)), as in Stiennon et al. 2020 (arXiv 2009.01325), so that the
    first scores are of the order of 1.  The tokenizer gets a separate pad token, because transformers reads the
    score at the last token that is not padding: if EOS were the padding, that would be the token before the EOS.
    """
    tokenizer = load_tokenizer(folder)
    config = read_config(folder, **ONE_LABEL)
    model, missing = load_model(AutoModelForSequenceClassification, folder, config, dtype)
    require_score_head(folder, model)
    require_complete(folder, missing - {SCORE_WEIGHT})
    patch_fast_kernels(model)
    head = model.score.weight.data
    head.copy_(torch.randn(head.shape, generator=torch.Generator().manual_seed(seed)) / math.sqrt(head.shape[1] + 1))
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
        rows = model.get_input_embeddings().num_embeddings
        if len(tokenizer) > rows:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def keep_use_cache(model: PreTrainedModel, base: Path) -> None:
    """Set `use_cache` in the model's configuration as in the folder `base`; transformers' Trainer switches it off."""
    model.config.use_cache = getattr(read_config(base), "use_cache", True)


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, state: dict[str, Tensor] | None = None
) -> None:
    """Replace `folder` by the model and its tokenizer; it is never left with a part of them.

    `state` replaces the model's own tensors if those are sharded over ranks or have another dtype.
    """
    _silence_transformers()
    with replace_folder(folder) as new:
        model.save_pretrained(new, state_dict=state)
        tokenizer.save_pretrained(new)


def load_model(
    kind: Any, folder: Path, config: PreTrainedConfig, dtype: Dtype, renamed: dict[str, str] | None = None
) -> tuple[PreTrainedModel, set[str]]:
    """A model of `kind`, an Auto class of transformers, in evaluation mode, and the names of its missing tensors.

    transformers fills missing tensors at random: see `require_complete`.  `renamed` are patterns of names in the files
    and what replaces them.  Raises UserError if the weights cannot be read, are not of the sizes in `config`, or are of
    more blocks.
    """
    _silence_transformers()
    weights = find_weights(folder)
    headers = weights.read_headers()
    require_size(kind, config, folder, weights.size)
    wrapped = {WRAPPED.pattern: ""} if all(map(WRAPPED.match, headers)) else {}
    try:
        model, report = kind.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=weights.kind == SAFETENSORS,
            weights_only=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are errors, whose names transformers would not report otherwise
            key_mapping=(renamed or {}) | wrapped or None,
            generation_config=_read_generation_config(folder, config),
        )
    except Exception as error:
        if user_message(error) is not None:
            raise
        raise UserError(
            f"{folder}: no model that transformers can load ({brief(error)}); give a folder with config.json and "
            "model.safetensors (or its shards and their index), as model.save_pretrained writes it"
        ) from error
    if mismatched := report["mismatched_keys"]:
        name, stored, expected = min(mismatched)
        raise UserError(
            f"{folder}: the tensor {name} has the shape {list(stored)} in the weights, but {list(expected)} by "
            "config.json; give the config.json that belongs to the weights"
        )
    unused = sorted(report["unexpected_keys"])
    left = [name for name in unused if OF_BLOCK.search(name) and not NOT_OF_MODEL.search(name)]
    if left:
        raise UserError(
            f"{folder}: {len(left)} tensors of blocks have no place in the model that config.json describes: "
            f"{', '.join(left[:5])}; give the config.json that belongs to the weights"
        )
    return model, set(report["missing_keys"])


def require_complete(folder: Path, missing: set[str]) -> None:
    """Raise UserError if tensors of the model in `folder` are missing in its files."""
    if missing:
        names = ", ".join(sorted(missing)[:5]) + (" ..." if len(missing) > 5 else "")
        raise UserError(
            f"{folder}: {len(missing)} tensors of the model are not in its weights: {names}; "
            "give a folder with all trained weights of this kind of model"
        )


def require_score_head(folder: Path, model: nn.Module) -> None:
    """Raise UserError unless `model`, of which `folder` is the folder, has a linear head `score` with one output."""
    head, labels = getattr(model, "score", None), getattr(model.config, "num_labels", None)
    if labels != 1 or getattr(head, "out_features", None) != 1:
        raise UserError(
            f"{folder}: {type(model).__name__} with {labels} labels is not a reward model; "
            "give a decoder model for sequence classification with num_labels 1 and a linear head named score"
        )


def _read_reward_config(folder: Path) -> tuple[PreTrainedConfig, dict[str, str]]:
    """Configuration of the reward model in `folder`, and what to rename if its head has a name of its own.

    OpenRLHF writes neither num_labels nor id2label, and the head's name to value_head_prefix.
    """
    config = read_config(folder)
    headers = find_weights(folder).read_headers()
    prefix = getattr(config, "value_head_prefix", None)
    head = f"{prefix}.weight" if isinstance(prefix, str) and f"{prefix}.weight" in headers else SCORE_WEIGHT
    if head in headers and headers[head].shape[:1] == (1,):
        config = read_config(folder, **ONE_LABEL)
    return config, {} if head == SCORE_WEIGHT else {f"^{re.escape(head)}$": SCORE_WEIGHT}


def _read_generation_config(folder: Path, config: PreTrainedConfig) -> GenerationConfig:
    """The generation settings in `folder`; those of the configuration if there are none that can be used."""
    path = folder / GENERATION
    try:
        settings = parse_json(read_regular_file(path, MAX_GENERATION_BYTES))
        return GenerationConfig.from_dict(settings)
    except Exception:  # it lacks the file, or transformers refuses its content, by any kind of error
        return GenerationConfig.from_model_config(config)


def _silence_transformers() -> None:
    """Turn off progress bars and tables of missing tensors, which are errors in this module."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
