"""Convert model folders for libraries of early 2024, and trained weights back.

For trlx: `pytorch_model.bin` with plain tensors, a configuration without newer names, and a tokenizer whose merges are
lines "a b".  Back: the original folder with new weights, so that every later stage can read it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf.errors import UserError
from rlhf.storage.files import replace_folder

MODEL_TYPES = ("gptj", "gpt2", "gpt_neox")
"""Architectures that have been tested with trlx."""
WEIGHTS = "pytorch_model.bin"
NEW_SETTINGS = ("dtype", "transformers_version", "rope_parameters", "torch_dtype")
TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


def convert_for_trlx(source: Path, target: Path) -> None:
    """Write the model in `source` to `target` in the layout that trlx reads, unless `target` exists.

    Raises UserError if the architecture or the tokenizer cannot be converted.
    """
    if target.is_dir():
        return
    config, vocabulary, tokenizer_config = (
        _read(source / name) for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
    )
    with replace_folder(target) as folder:
        _write(folder / "config.json", convert_config(config, source))
        _write(folder / "tokenizer.json", convert_vocabulary(vocabulary, source))
        _write(folder / "tokenizer_config.json", convert_tokenizer_config(tokenizer_config))
        torch.save(read_tensors(source), folder / WEIGHTS)


def write_trained_model(source: Path, trained: Mapping[str, Tensor], target: Path) -> None:
    """Write the model folder `source` to `target` with the tensors `trained`, in the original dtype.

    Tensors that only `trained` has are aliases of others, or no weights.
    """
    before = read_tensors(source)
    missing = sorted(before.keys() - trained.keys())
    assert not missing, f"trlx lost {missing[:5]}"
    after = {name: trained[name].to("cpu", old.dtype).contiguous() for name, old in before.items()}
    assert all(after[name].shape == old.shape for name, old in before.items()), "trlx changed a shape"
    weights = shutil.ignore_patterns("*.safetensors", "*.safetensors.index.json")
    with replace_folder(target) as folder:
        shutil.copytree(source, folder, ignore=weights, dirs_exist_ok=True)
        save_file(after, folder / "model.safetensors", metadata={"format": "pt"})


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors in the safetensors files of `folder`."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    if not tensors:
        raise UserError(f"{folder}: no safetensors; give a folder as save_pretrained of transformers writes it")
    return tensors


def convert_config(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A model's configuration with the names of transformers 4.41."""
    if config["model_type"] not in MODEL_TYPES:
        raise UserError(
            f"{folder}: trainer (trlx) supports {', '.join(MODEL_TYPES)}, not {config['model_type']}; "
            "set trainer to own"
        )
    old = {name: value for name, value in config.items() if name not in NEW_SETTINGS}
    rotation = config.get("rope_parameters")
    if rotation is not None:
        if rotation["rope_type"] != "default":
            raise UserError(
                f"{folder}: rope_type ({rotation['rope_type']}) is newer than trlx; set trainer to own for this model"
            )
        old |= {"rotary_emb_base": rotation["rope_theta"], "rotary_pct": rotation["partial_rotary_factor"]}
    return old


def convert_vocabulary(vocabulary: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Content of tokenizer.json with merges as lines "a b", as tokenizers 0.19 reads them."""
    model = vocabulary["model"]
    if model["type"] != "BPE":
        return vocabulary
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    if any(" " in part for merge in merges for part in merge):
        raise UserError(
            f"{folder}: its tokenizer merges pieces with spaces, which trlx cannot read; set trainer to own"
        )
    return {**vocabulary, "model": {**model, "merges": [" ".join(merge) for merge in merges]}}


def convert_tokenizer_config(config: dict[str, Any]) -> dict[str, Any]:
    """The special tokens; EOS as pad token if there is none, as in all stages."""
    named = {name: config.get(name) for name in TOKENS}
    texts = {name: token["content"] if isinstance(token, dict) else token for name, token in named.items()}
    texts["pad_token"] = texts["pad_token"] or texts["eos_token"]
    present = {name: text for name, text in texts.items() if text is not None}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **present}


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing, but trainer (trlx) needs it; set trainer to own") from error
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
