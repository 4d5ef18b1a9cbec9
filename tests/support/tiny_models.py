"""Tiny models in transformers layout, created offline in seconds, for tests that run real code."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

Architecture = Literal["gptj", "gpt_neox", "llama", "gpt2", "qwen2"]
END = "<|endoftext|>"
WIDTH, LAYERS, HEADS, CONTEXT = 32, 3, 4, 128
CORPUS = (
    "\n\nHuman: What can I cook with rice and eggs?\n\nAssistant: You can make fried rice with eggs.",
    "\n\nHuman: How do I pick a lock?\n\nAssistant: I can't help with that, but a locksmith can.",
    "\n\nHuman: Why is the sky blue?\n\nAssistant: Air scatters blue light more than red light.",
)


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level BPE of 320 entries, like GPT-J's: BOS and EOS are `<|endoftext|>` (id 0), and no pad token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END)


def tiny_model(folder: Path, architecture: Architecture = "gptj", seed: int = 0) -> Path:
    """Write a causal language model of random weights and its tokenizer to `folder`; returns `folder`.

    3 blocks, hidden size 32, 4 heads, context 128.  The embeddings have 8 more rows than the tokenizer has entries.
    """
    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_config(architecture, len(tokenizer) + 8))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _config(architecture: Architecture, vocab_size: int) -> PreTrainedConfig:
    vocabulary = {"vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 0}
    if architecture == "gptj":
        return GPTJConfig(n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=CONTEXT, rotary_dim=4, **vocabulary)
    if architecture == "gpt2":
        return GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=CONTEXT, **vocabulary)
    sizes = {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 2 * WIDTH,
        "max_position_embeddings": CONTEXT,
    }
    if architecture == "gpt_neox":
        return GPTNeoXConfig(**sizes, **vocabulary)
    sizes["num_key_value_heads"] = 2
    return LlamaConfig(**sizes, **vocabulary) if architecture == "llama" else Qwen2Config(**sizes, **vocabulary)


def copy_with_another_tokenizer(source: Path, folder: Path) -> None:
    """Write the model in `source` to `folder` with a tokenizer whose ids mean other tokens."""
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if "token" not in path.name:
            (folder / path.name).write_bytes(path.read_bytes())
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "<x>", END], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(["zebra quartz zebra quartz"], trainer)
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END).save_pretrained(folder)
