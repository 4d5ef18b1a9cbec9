"""Tokenizers of the tests, and the files of a tokenizer in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.support.tiny_models import CORPUS, END

CONFIG, PIPELINE = "tokenizer_config.json", "tokenizer.json"
Values = dict[str, Any]
DIGITS_APART = r"\p{N}|[^\r\n\p{L}\p{N}]?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"


def byte_level(**arguments: Any) -> Tokenizer:
    """A byte-level BPE of 320 entries; `arguments` are those of its pre-tokenizer."""
    return trained(pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **arguments}))


def trained(pre_tokenizer: Any, normalizer: Any = None) -> Tokenizer:
    """A byte-level BPE of 320 entries with these rules before it."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer, bpe.pre_tokenizer, bpe.decoder = normalizer, pre_tokenizer, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator([*CORPUS, " 2024 12345 " * 20], trainer)
    return bpe


def digits_apart() -> Tokenizer:
    """Cuts text at a pattern of its own, as many tokenizers of current models do; GPT-2's rule keeps numbers whole."""
    split = pre_tokenizers.Split(Regex(DIGITS_APART), "isolated")
    return trained(pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]))


def write_tokenizer(folder: Path, pipeline: Tokenizer, **config: Any) -> Path:
    """Write a tokenizer's two files, with EOS `<|endoftext|>`."""
    folder.mkdir(parents=True, exist_ok=True)
    pipeline.save(str(folder / PIPELINE))
    (folder / CONFIG).write_text(json.dumps({"eos_token": END, **config}))
    return folder


def edit_values(path: Path, change: Callable[[Values], object]) -> None:
    """Change the object in a JSON file in place."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
