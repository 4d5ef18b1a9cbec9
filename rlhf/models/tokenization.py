"""Text to token ids and back, one place for all stages.

A prompt and its answer are always encoded apart, so that training, sampling and scoring see the same ids at the seam.
Text that happens to spell a special token, such as `<|endoftext|>`, is ordinary text here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlhf.errors import UserError, brief

RESPONSE_BOUNDARY = ":"
"""What every prompt ends in.  Answers are encoded and decoded behind it, because tokenizers of the Llama family treat
the beginning of a text in their own way: they add a space when encoding and drop one when decoding."""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Ids of a prompt: with the BOS token where the tokenizer adds one, never with an EOS at its end."""
    ids: list[int] = tokenizer(prompt, split_special_tokens=True).input_ids
    while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids


def encode_response(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
    """Ids of an answer that follows a prompt: no BOS, one EOS at the end."""
    seam = _encode_plain(tokenizer, RESPONSE_BOUNDARY)
    both = _encode_plain(tokenizer, RESPONSE_BOUNDARY + answer)
    merged = both[: len(seam)] != seam  # the answer's first characters became one token with the seam
    ids = _encode_plain(tokenizer, answer) if merged else both[len(seam) :]
    return [*ids, tokenizer.eos_token_id]


def decode_responses(tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]]) -> list[str]:
    """Texts of the ids of answers, spaces as they were, without special tokens."""
    if not rows:
        return []  # which transformers takes for one empty row
    seam = _encode_plain(tokenizer, RESPONSE_BOUNDARY)
    texts: list[str] = tokenizer.batch_decode(
        [seam + ids for ids in rows], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return [text.removeprefix(RESPONSE_BOUNDARY) for text in texts]


def decode_response(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Text of one answer's ids."""
    return decode_responses(tokenizer, [ids])[0]


def _encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    return ids


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, with a pad token: its EOS where it has none of its own.

    Raises UserError where there is no tokenizer that transformers can read, or one without an EOS token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: no tokenizer that transformers can load ({brief(error)})") from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{folder}: the tokenizer has no EOS token, so no answer could end; set eos_token in tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
