"""Small text classifiers with random weights: in Detoxify's format, or as transformers saves them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import AlbertTokenizer, BertTokenizer, PreTrainedTokenizerBase, RobertaTokenizer, XLMRobertaTokenizer

Shape = Literal["bert", "roberta", "xlm-roberta", "albert"]
SHAPES: tuple[Shape, ...] = ("bert", "roberta", "xlm-roberta", "albert")
WORDS = ["you", "are", "a", "kind", "foolish", "person", "and", "so", "."]
ORIGINAL = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]
"""Labels of Detoxify's first models."""
UNBIASED = ["toxicity", "severe_toxicity", "obscene", "identity_attack", "insult", "threat", "sexual_explicit"]
"""Labels of its later models, which also predict nine groups of people."""
UNBIASED_OUTPUTS = 16
TOKENS = 24
"""Longest text of the small encoders, in tokens."""


@dataclass(frozen=True)
class Size:
    """Size of an encoder."""

    width: int = 16
    layers: int = 2
    heads: int = 2
    tokens: int = TOKENS


SMALL = Size()


def make_checkpoint(
    folder: Path,
    shape: Shape,
    labels: list[str],
    outputs: int,
    *,
    size: Size = SMALL,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Path:
    """Write a checkpoint and its encoder's config.json and tokenizer into `folder`; returns the checkpoint's path."""
    tokenizer = tokenizer or _tokenizer(shape, size.tokens)
    tokenizer.save_pretrained(folder)
    config = _config(shape, tokenizer, size, outputs)
    config.save_pretrained(folder)
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 2 * size.width**-0.5)
    arguments = {
        "num_classes": outputs,
        "model_type": str(folder),
        "model_name": type(model).__name__,
        "tokenizer_name": type(tokenizer).__name__,
    }
    settings = {"arch": {"type": shape.upper(), "args": arguments}, "dataset": {"args": {"classes": labels}}}
    # position ids, as old versions of transformers saved them
    position_ids = {f"{model.base_model_prefix}.embeddings.position_ids": torch.arange(size.tokens)[None]}
    path = folder / "toxic.ckpt"
    torch.save({"config": settings, "state_dict": {**model.state_dict(), **position_ids}}, path)
    return path


def make_classifier(folder: Path, shape: Shape, labels: list[str], problem_type: str | None = None) -> Path:
    """Write a sequence classification model and its tokenizer as transformers saves them; returns `folder`."""
    tokenizer = _tokenizer(shape, SMALL.tokens)
    tokenizer.save_pretrained(folder)
    config = _config(shape, tokenizer, SMALL, len(labels))
    config.id2label, config.problem_type = dict(enumerate(labels)), problem_type
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 2 * SMALL.width**-0.5)
    model.save_pretrained(folder)
    return folder


def _config(shape: Shape, tokenizer: PreTrainedTokenizerBase, size: Size, outputs: int) -> Any:
    padding_positions = 0 if shape in ("bert", "albert") else tokenizer.pad_token_id + 1
    extra = {"embedding_size": 8} if shape == "albert" else {}
    return transformers.AutoConfig.for_model(
        shape,
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        max_position_embeddings=size.tokens + padding_positions,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=outputs,
        **extra,
    )


def _tokenizer(shape: Shape, tokens: int) -> PreTrainedTokenizerBase:
    if shape == "bert":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
        return BertTokenizer(vocab={word: index for index, word in enumerate(words)}, model_max_length=tokens)
    if shape == "roberta":
        pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *map(chr, range(33, 127))]
        vocabulary = {piece: index for index, piece in enumerate(pieces)}
        return RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=tokens)
    specials = (
        ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"] if shape == "albert" else ["<s>", "<pad>", "</s>", "<unk>"]
    )
    pieces = [*specials, "▁", *(f"▁{word}" for word in WORDS), *(chr(letter) for letter in range(97, 123))]
    scores = [(piece, 0.0 if piece in specials else -float(index)) for index, piece in enumerate(pieces)]
    kind = AlbertTokenizer if shape == "albert" else XLMRobertaTokenizer
    return kind(vocab=scores, model_max_length=tokens)
