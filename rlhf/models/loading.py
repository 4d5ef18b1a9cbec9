"""Loads and saves models and tokenizers in folders of transformers layout, for all stages.

Nothing is downloaded, no code from a model folder is run, and weights are safetensors; the one exception is
`rlhf.models.pickled_reward_model`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from rlhf.errors import UserError, brief
from rlhf.models.kernels import patch_fast_kernels
from rlhf.models.pickled_reward_model import find_pickle, read_pickled_reward_model
from rlhf.models.tokenization import load_tokenizer
from rlhf.storage.files import replace_folder

Dtype = Literal["float32", "bfloat16"]
SCORE_WEIGHT = "score.weight"
"""Weight of the reward model's linear head: hidden state to score, without bias."""
PAD = "<|pad|>"
"""Pad token of reward models whose base model has none."""


def load_causal_lm(folder: Path, dtype: Dtype) -> PreTrainedModel:
    """Load the causal language model in `folder`, in evaluation mode, on the CPU.

    Raises UserError if the folder has no complete model: no safetensors, or tensors missing from them.
    """
    model, missing = _load(AutoModelForCausalLM, folder, dtype)
    _require_all(folder, missing)
    return model


def load_reward_model(folder: Path, dtype: Dtype, base: Path | None = None) -> PreTrainedModel:
    """Load the reward model in `folder`, in evaluation mode, on the CPU: sequence classification with one label.

    Its bias-free head `score` computes the score of a text from the last hidden state of the text's last token.
    `folder` may also contain a pickle (see `rlhf.models.pickled_reward_model`); if it has no configuration, that of
    `base` is used.  Raises UserError if the model is of another kind, or if its head was never trained.
    """
    if (pickle := find_pickle(folder)) is not None:
        return read_pickled_reward_model(pickle, dtype, base)
    model, missing = _load(AutoModelForSequenceClassification, folder, dtype)
    _require_all(folder, missing)
    _require_score_head(folder, model)
    return model


def new_reward_model(folder: Path, dtype: Dtype, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal language model in `folder` with a score head in place of its output layer, and its tokenizer.

    `seed` draws the head from N(0, 1 / (hidden size + 1)), as in Stiennon et al. 2020 (arXiv 2009.01325), so that the
    first scores are of the order of 1.  The tokenizer gets a separate pad token, because transformers reads the
    score at the last token that is not padding: if EOS were the padding, that would be the token before the EOS.
    """
    tokenizer = load_tokenizer(folder)
    model, missing = _load(AutoModelForSequenceClassification, folder, dtype, num_labels=1)
    _require_score_head(folder, model)
    _require_all(folder, missing - {SCORE_WEIGHT})
    head = model.score.weight.data
    head.copy_(torch.randn(head.shape, generator=torch.Generator().manual_seed(seed)) / math.sqrt(head.shape[1] + 1))
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
        rows = model.get_input_embeddings().num_embeddings
        if len(tokenizer) > rows:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


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


def _load(kind: Any, folder: Path, dtype: Dtype, **changes: object) -> tuple[PreTrainedModel, set[str]]:
    """The model, and the names of its tensors that are missing in the folder: transformers fills them at random."""
    _silence_transformers()
    try:
        model, report = kind.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True, **changes
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{folder}: no model that transformers can load from safetensors ({brief(error)}); give a folder with "
            "config.json and model.safetensors (or its shards and their index), as model.save_pretrained writes it"
        ) from error
    return patch_fast_kernels(model), set(report["missing_keys"])


def _silence_transformers() -> None:
    """Turn off progress bars and tables of missing tensors, which are errors in this module."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _require_all(folder: Path, missing: set[str]) -> None:
    if missing:
        names = ", ".join(sorted(missing)[:5]) + (" ..." if len(missing) > 5 else "")
        raise UserError(
            f"{folder}: {len(missing)} tensors of the model are not in its safetensors: {names}; "
            "give a folder with all trained weights of this kind of model"
        )


def _require_score_head(folder: Path, model: PreTrainedModel) -> None:
    head = getattr(model, "score", None)
    if model.config.num_labels != 1 or getattr(head, "out_features", None) != 1:
        raise UserError(
            f"{folder}: {type(model).__name__} with {model.config.num_labels} labels is not a reward model; "
            "give a decoder model for sequence classification with num_labels 1 and a linear head named score"
        )
