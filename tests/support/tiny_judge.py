"""A tiny language model whose context is long enough for the questions to a judge."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.support.tiny_models import tiny_model

QUESTION_CONTEXT = 4096
ATTENTION_SCALE = 20
"""Factor of the attention's random weights, so that the next token depends on all of the text."""


def tiny_judge(folder: Path, chat_template: str | None = None) -> Path:
    """Write a causal language model of random weights to `folder`, with this chat template; returns `folder`.

    Its tokenizer has tokens for A, B and C with a space before them, too.
    """
    tiny_model(folder, "llama")
    weights = load_file(folder / "model.safetensors")
    scaled = {name: weight * (ATTENTION_SCALE if "attn" in name else 1) for name, weight in weights.items()}
    save_file(scaled, folder / "model.safetensors", {"format": "pt"})
    _update(folder / "config.json", max_position_embeddings=QUESTION_CONTEXT)  # no weight depends on it
    tokenizer = folder / "tokenizer.json"
    content = json.loads(tokenizer.read_text())
    size = len(content["model"]["vocab"])
    content["model"]["vocab"] |= {f"Ġ{letter}": size + index for index, letter in enumerate("ABC")}
    content["model"]["merges"] += [["Ġ", letter] for letter in "ABC"]
    tokenizer.write_text(json.dumps(content))
    if chat_template is not None:
        _update(folder / "tokenizer_config.json", chat_template=chat_template)
    return folder


def _update(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
