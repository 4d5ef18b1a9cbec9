"""Reads reward models that were published as a pickle: a GPT-J body with a bias-free linear head.

Layout of Dahoas/gptj-rm-static (revision 676bfd4d): tensors `transformer.*` and `v_head.weight`, nothing else in the
folder; scored with right padding at the first EOS.  The pickle is read with `weights_only`, which runs no code.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from transformers import AutoConfig, GPTJConfig, GPTJForSequenceClassification, PreTrainedModel

from rlhf.errors import UserError

MASK_BUFFER = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")
"""Causal masks, which older versions of transformers stored with the weights."""


def find_pickle(source: Path) -> Path | None:
    """The one pickled checkpoint at `source` (a folder or the file itself), or None if there are safetensors.

    Raises UserError if a folder has several pickles and no safetensors.
    """
    if source.is_file():
        return source
    if any(source.glob("*.safetensors")):
        return None
    pickles = sorted(path for suffix in ("*.pt", "*.bin") for path in source.glob(suffix))
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
    with torch.device("meta"):
        expected = GPTJForSequenceClassification(config).state_dict()
    _require_same_tensors(checkpoint, expected, state)
    model = GPTJForSequenceClassification.from_pretrained(None, config=config, state_dict=state, dtype=dtype)
    return cast(PreTrainedModel, model)


def _gptj_config(checkpoint: Path, base: Path | None) -> GPTJConfig:
    folder = checkpoint.parent if (checkpoint.parent / "config.json").is_file() else base
    config = AutoConfig.from_pretrained(folder, local_files_only=True, num_labels=1) if folder else None
    if not isinstance(config, GPTJConfig):
        raise UserError(
            f"{checkpoint}: a pickled reward model needs a GPT-J configuration; put GPT-J's config.json next to it, "
            "or convert the model to safetensors with AutoModelForSequenceClassification and num_labels 1"
        )
    return config


def _read_state(checkpoint: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{checkpoint}: no checkpoint of plain tensors that torch can load without running code from it; "
            "download it again or convert it to safetensors"
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
