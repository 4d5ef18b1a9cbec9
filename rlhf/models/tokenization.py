"""Converts text to token ids and back, in the same way for all stages.

A prompt and its response are always encoded separately, so that training, sampling and scoring see the same ids at the
boundary.  Text that happens to spell a special token, such as `<|endoftext|>`, is treated as ordinary text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlhf.errors import UserError, brief

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

RESPONSE_BOUNDARY = ":"
"""Last character of every prompt.  Responses are encoded and decoded after it, because tokenizers of the Llama family
treat the beginning of a text differently: they add a space when encoding and drop one when decoding."""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of a prompt: with a BOS token if the tokenizer adds one, without an EOS at the end."""
    ids: list[int] = tokenizer(prompt, split_special_tokens=True).input_ids
    while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids


def encode_response(tokenizer: PreTrainedTokenizerBase, response: str) -> list[int]:
    """Token ids of a response that follows a prompt: no BOS, one EOS at the end."""
    boundary = _encode_plain(tokenizer, RESPONSE_BOUNDARY)
    both = _encode_plain(tokenizer, RESPONSE_BOUNDARY + response)
    merged = both[: len(boundary)] != boundary  # the response's first characters share a token with the boundary
    ids = _encode_plain(tokenizer, response) if merged else both[len(boundary) :]
    return [*ids, tokenizer.eos_token_id]


def decode_responses(tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]]) -> list[str]:
    """Texts of the token ids of responses, with their original spaces, without special tokens."""
    if not rows:
        return []  # transformers would take it for one empty row
    boundary = _encode_plain(tokenizer, RESPONSE_BOUNDARY)
    texts: list[str] = tokenizer.batch_decode(
        [boundary + ids for ids in rows], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return [text.removeprefix(RESPONSE_BOUNDARY) for text in texts]


def decode_response(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Text of the token ids of one response."""
    return decode_responses(tokenizer, [ids])[0]


def context_length(config: PreTrainedConfig) -> int | None:
    """The longest sequence, in tokens, that a model of this configuration takes; None if it has no limit."""
    # The transformers that trlx needs has no get_text_config.
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    length: int | None = getattr(text_config, "max_position_embeddings", None)
    return length


def require_fit(text: str, tokens: int, context: int | None, *, new_tokens: int = 0, remedy: str | None = None) -> None:
    """Check that `tokens` tokens and `new_tokens` after them fit a context of `context` tokens; None fits everything.

    Raises UserError, in which `text` names the tokens, if they do not.
    """
    if context is None or tokens + new_tokens <= context:
        return
    rule = f"which leaves no room for {new_tokens} more in" if new_tokens else "more than"
    remedy = remedy or f"lower data.max_prompt_tokens and data.max_response_tokens to {context} together"
    raise UserError(f"{text} has {tokens} tokens, {rule} the model's context of {context}; {remedy}")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer in `folder`; if it has no pad token, its EOS token is used.

    Raises UserError if there is no tokenizer that transformers can read, or if it has no EOS token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder}: no tokenizer that transformers can load ({brief(error)}); add the files that "
            "tokenizer.save_pretrained writes, such as tokenizer.json and tokenizer_config.json"
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{folder}: the tokenizer has no EOS token, so no response could end; set eos_token in "
            "tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    return ids
