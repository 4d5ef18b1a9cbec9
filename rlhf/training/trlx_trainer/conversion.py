"""Between this package's model folders and what libraries of early 2024 read.

There: `pytorch_model.bin` with plain tensors, a configuration without the names that came later, a tokenizer whose
merges are lines "a b".  Back: the same folder as before with other weights, so that every later stage reads it.
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

MODEL_TYPES = ("gptj", "gpt2", "gpt_neox")
"""Architectures that are tried with trlx here."""
WEIGHTS = "pytorch_model.bin"
NEW_SETTINGS = ("dtype", "transformers_version", "rope_parameters", "torch_dtype")
TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


def write_old_layout(source: Path, target: Path) -> None:
    """Write the model in `source` to `target` in the old layout; a `target` that is there already is whole.

    Raises UserError where the architecture or the tokenizer has no old form.
    """
    if target.is_dir():
        return
    temporary = target.with_name(f".{target.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    config, vocabulary, words = (
        _read(source / name) for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
    )
    _write(temporary / "config.json", old_config(config, source))
    _write(temporary / "tokenizer.json", old_vocabulary(vocabulary, source))
    _write(temporary / "tokenizer_config.json", old_tokenizer_config(words))
    torch.save(read_tensors(source), temporary / WEIGHTS)
    temporary.rename(target)


def write_trained(source: Path, trained: Mapping[str, Tensor], target: Path) -> None:
    """Write the model folder `source` to `target` with the tensors `trained`, in the number format they had before.

    Tensors that only `trained` has are another name of one that both have, or no weights at all.
    """
    before = read_tensors(source)
    missing = sorted(before.keys() - trained.keys())
    assert not missing, f"trlx lost {missing[:5]}"
    temporary = target.with_name(f".{target.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary, ignore=shutil.ignore_patterns("*.safetensors", "*.safetensors.index.json"))
    after = {name: trained[name].to("cpu", old.dtype).contiguous() for name, old in before.items()}
    assert all(after[name].shape == old.shape for name, old in before.items()), "trlx changed a shape"
    save_file(after, temporary / "model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors in the safetensors of `folder`."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    if not tensors:
        raise UserError(f"{folder}: no safetensors; give a folder as save_pretrained of transformers writes it")
    return tensors


def old_config(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A model's configuration in the words of transformers 4.41."""
    if config["model_type"] not in MODEL_TYPES:
        raise UserError(
            f"{folder}: trainer (trlx) knows {', '.join(MODEL_TYPES)}, not {config['model_type']}; set trainer to own"
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


def old_vocabulary(vocabulary: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The content of tokenizer.json with merges as lines "a b", as tokenizers 0.19 reads them."""
    model = vocabulary["model"]
    if model["type"] != "BPE":
        return vocabulary
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    if any(" " in part for merge in merges for part in merge):
        raise UserError(
            f"{folder}: its tokenizer merges pieces with spaces, which trlx cannot read; set trainer to own"
        )
    return {**vocabulary, "model": {**model, "merges": [" ".join(merge) for merge in merges]}}


def old_tokenizer_config(config: dict[str, Any]) -> dict[str, Any]:
    """Names of the special tokens; where there is no pad token, EOS, as every stage has it."""
    named = {name: config.get(name) for name in TOKENS}
    texts = {name: token["content"] if isinstance(token, dict) else token for name, token in named.items()}
    texts["pad_token"] = texts["pad_token"] or texts["eos_token"]
    given = {name: text for name, text in texts.items() if text is not None}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **given}


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing, which trainer (trlx) needs; set trainer to own") from None
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
