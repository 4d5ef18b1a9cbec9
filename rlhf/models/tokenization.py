"""Converts text to token ids and back, in the same way for all stages.

A prompt and its response are always encoded separately, so that training, sampling and scoring see the same ids at the
boundary.  Text that happens to spell a special token, such as `<|endoftext|>`, is treated as ordinary text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.models.tokenizer_files import read_tokenizer, refused

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

RESPONSE_BOUNDARY = ":"
"""Last character of every prompt.  Responses are encoded and decoded after it, because tokenizers of the Llama family
treat the beginning of a text differently: they add a space when encoding and drop one when decoding."""
OTHER_BOUNDARIES = ("\n", "?", "x")
"""Stand in for RESPONSE_BOUNDARY before responses whose first characters would share a token with it."""
DIALOGUES = (
    "\n\nHuman: What can I cook?\n\nAssistant: Rice, or eggs.\n\nHuman: Why?\n\nAssistant:",
    " You can make fried rice with 12 eggs. Wash it first!",
    "\n\n1. Cook 250 g of rice.\n2. Beat 3 eggs.\n\nThen fry them in 1990 ways",
    "No space at the beginning",
    "  two  spaces,   three  ",
    " I can't, you're right: it isn't so , is it ?",
    " small CAPITALS MixedCase",
    "\n",
    " ",
    " ends with a line break\n",
)
"""Texts that every tokenizer must give back as they are.  Characters outside ASCII are lost in some vocabularies."""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of a prompt: with a BOS token if the tokenizer adds one, without an EOS at the end."""
    with _processing(prompt):
        ids: list[int] = tokenizer(prompt, split_special_tokens=True).input_ids
    while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids


def encode_response(tokenizer: PreTrainedTokenizerBase, response: str) -> list[int]:
    """Token ids of a response that follows a prompt: no BOS, one EOS at the end."""
    for boundary in (RESPONSE_BOUNDARY, *OTHER_BOUNDARIES):
        before, both = _encode_plain(tokenizer, boundary), _encode_plain(tokenizer, boundary + response)
        if both[: len(before)] == before:
            return [*both[len(before) :], tokenizer.eos_token_id]
    return [*_encode_plain(tokenizer, response), tokenizer.eos_token_id]


def decode_responses(tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]]) -> list[str]:
    """Texts of the token ids of responses, with their original spaces, without special tokens."""
    if not rows:
        return []  # transformers would take it for one empty row
    boundary = _encode_plain(tokenizer, RESPONSE_BOUNDARY)
    before, *texts = _decode(tokenizer, [boundary, *(boundary + ids for ids in rows)])  # `before` is " :" in some
    return [text.removeprefix(before) for text in texts]


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

    Its ids are those of tokenizer.json, whatever class tokenizer_config.json names.
    Raises UserError if there is no tokenizer that can be read, if it has no EOS token, or if it does not give back
    the text of an English dialogue: it would train on, and show, another text than people wrote.
    """
    tokenizer = read_tokenizer(folder)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{folder}: the tokenizer has no EOS token, so no response could end; set eos_token in "
            "tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    for text in DIALOGUES:
        with refused(f"{folder}: the tokenizer cannot process {text!r}", "use a model with another tokenizer"):
            restored = decode_response(tokenizer, encode_response(tokenizer, text))
        if restored != text:
            raise UserError(
                f"{folder}: the tokenizer does not give back text: {text!r} comes back as {restored[:100]!r}; use a "
                "model whose tokenizer keeps letters, spaces and line breaks"
            )
    return tokenizer


def _encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    with _processing(text):
        ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    return ids


def _decode(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> list[str]:
    with _processing("token ids"):
        texts: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return texts


@contextmanager
def _processing(text: str) -> Iterator[None]:
    """Raise UserError if the tokenizer fails on `text`, as it does if a pattern in tokenizer.json takes too long."""
    with refused(f"the tokenizer cannot process {text[:60]!r}", "use a model with another tokenizer"):
        yield
