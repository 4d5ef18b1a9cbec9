"""Reads reward models that were published as a pickle: a GPT-J body with a bias-free linear head.

Layout of Dahoas/gptj-rm-static (revision 676bfd4d): tensors `transformer.*` and `v_head.weight`, nothing else in the
folder; scored with right padding at the first EOS.  The pickle is read with `weights_only`, which runs no code.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, GPTJConfig, GPTJForSequenceClassification, PreTrainedModel

from rlhf.errors import UserError, brief, user_message
from rlhf.models.config_file import read_config, require_size
from rlhf.models.weight_files import PICKLE

MASK_BUFFER = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")
"""Causal masks, which older versions of transformers stored with the weights."""
ARGUMENTS = "training_args.bin"
"""Settings of transformers' Trainer, a pickle that is no checkpoint and is never opened."""


def find_pickle(source: Path) -> Path | None:
    """The one pickled checkpoint of this layout at `source`, a folder or the file itself.

    None if the weights are safetensors, or a pytorch_model.bin beside the configuration of another model than GPT-J,
    which transformers reads.  Raises UserError if a folder has several pickles and no safetensors.
    """
    if source.is_file():
        return source
    if any(source.glob("*.safetensors*")) or (source / f"{PICKLE}.index.json").is_file():
        return None
    pickles = sorted(path for suffix in ("*.pt", "*.bin") for path in source.glob(suffix) if path.name != ARGUMENTS)
    if [path.name for path in pickles] == [PICKLE] and (source / "config.json").is_file():
        return None if read_config(source).model_type != "gptj" else pickles[0]
    if len(pickles) > 1:
        names = ", ".join(path.name for path in pickles)
        raise UserError(f"{source}: several checkpoints ({names}); keep one, or convert the model to safetensors")
    return pickles[0] if pickles else None


def read_pickled_reward_model(checkpoint: Path, dtype: str, base: Path | None) -> PreTrainedModel:
    """The reward model in the file `checkpoint` as GPTJForSequenceClassification, in evaluation mode, on the CPU.

    The configuration is next to the file or, if there is none, in the base model's folder `base`.
    Raises UserError if the file is not a plain state dict, or if its tensors are not exactly those of such a model.
    """
    config = _gptj_config(checkpoint, base)
    state = {name: tensor for name, tensor in _read_state(checkpoint).items() if not MASK_BUFFER.fullmatch(name)}
    if "v_head.weight" in state:
        state["score.weight"] = state.pop("v_head.weight")
    described = require_size(AutoModelForSequenceClassification, config, checkpoint.parent, checkpoint.stat().st_size)
    _require_same_tensors(checkpoint, described.state_dict(), state)
    model = GPTJForSequenceClassification.from_pretrained(None, config=config, state_dict=state, dtype=dtype)
    return cast(PreTrainedModel, model)


def _gptj_config(checkpoint: Path, base: Path | None) -> GPTJConfig:
    folder = checkpoint.parent if (checkpoint.parent / "config.json").is_file() else base
    config = read_config(folder, num_labels=1, id2label=None, label2id=None) if folder else None
    if not isinstance(config, GPTJConfig):
        raise UserError(
            f"{checkpoint}: a pickled reward model needs a GPT-J configuration; put GPT-J's config.json next to it, "
            "or convert the model to safetensors with AutoModelForSequenceClassification and num_labels 1"
        )
    return config


def _read_state(checkpoint: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:
        if user_message(error) is not None:
            raise
        raise UserError(
            f"{checkpoint}: no checkpoint of plain tensors that torch can load without running code from it "
            f"({brief(error)}); download it again or convert it to safetensors"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f"{checkpoint}: not a state dict (name -> tensor); convert the model to safetensors")
    return state


def _require_same_tensors(checkpoint: Path, expected: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    misshapen = [name for name in expected.keys() & state.keys() if expected[name].shape != state[name].shape]
    for problem, names in (
        ("unexpected", state.keys() - expected.keys()),
        ("missing", expected.keys() - state.keys()),
        ("of another shape than in the configuration", misshapen),
    ):
        if names:
            listed = ", ".join(sorted(names)[:5]) + (" ..." if len(names) > 5 else "")
            raise UserError(
                f"{checkpoint}: {len(names)} tensors {problem}: {listed}; a pickled reward model must contain "
                "exactly GPT-J's transformer.* and v_head.weight, of the base model's size"
            )
