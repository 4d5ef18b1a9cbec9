"""Reads the tokenizer files of a model folder of unknown origin.

tokenizer.json says what a tokenizer computes.  transformers builds other rules in its place for many classes that
tokenizer_config.json may name, which gives other ids without a word; here the file itself is followed.  Of
tokenizer_config.json only special tokens and two harmless settings are read, and the chat template as text that nobody
renders here: no code and no path.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer
from transformers import PreTrainedTokenizerFast as TokenizerOfThisVersion

from rlhf.errors import UserError, brief, user_message
from rlhf.storage.untrusted import MalformedJsonError, parse_json, read_regular_file

PIPELINE, CONFIG, SPECIAL_TOKENS = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
CHAT_TEMPLATE = "chat_template.jinja"
OTHER_LAYOUTS = (
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tiktoken.model",
    "tekken.json",
)
"""Vocabularies that transformers can make a tokenizer.json of."""
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
EXTRA_TOKENS = ("additional_special_tokens", "extra_special_tokens")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
CONVERSION_KEYS = (
    *NAMED_TOKENS,
    *EXTRA_TOKENS,
    "added_tokens_decoder",
    "tokenizer_class",
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "do_lower_case",
    "legacy",
)
"""Keys of tokenizer_config.json that say what the vocabularies of OTHER_LAYOUTS mean."""
MAX_BYTES = 2**28
"""Longest file; the largest published tokenizer.json have 2^25."""
REMEDY = "copy the model's own tokenizer files again, or save them once more with a current version of transformers"
Values = dict[str, Any]


class PreTrainedTokenizerFast(TokenizerOfThisVersion):  # type: ignore[misc]  # transformers is not type-checked
    """A tokenizer that does what its tokenizer.json says.

    Saved folders name its class, and this name is the one that transformers 4 and 5 both know.
    """


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in `folder`, with its special tokens, without padding, truncation and dropout.

    Raises UserError if there is none, if a file cannot be read, if ids differ between the files, or if the EOS token
    is not in the vocabulary.  Other special tokens that are not in the vocabulary are dropped.
    """
    config, legacy = _read_settings(folder / CONFIG), _read_settings(folder / SPECIAL_TOKENS)
    model = _read_settings(folder / "config.json", required=False)
    defaults: dict[str, str | None] = {}
    if (folder / PIPELINE).exists():
        pipeline = _read_pipeline(folder / PIPELINE)
    else:
        pipeline, defaults = _convert(folder, config, model)
    _add_tokens(folder / CONFIG, pipeline, config)
    named = defaults | _tokens_of_model(pipeline, model) | _named_tokens(folder / SPECIAL_TOKENS, legacy)
    special = _in_vocabulary(folder / CONFIG, pipeline, named | _named_tokens(folder / CONFIG, config))
    arguments = _length_and_side(folder / CONFIG, config)
    with refused(f"{folder}: no tokenizer can be made of its files", REMEDY):
        pipeline.no_padding()
        pipeline.no_truncation()
        if hasattr(pipeline.model, "dropout"):
            pipeline.model.dropout = None
        return PreTrainedTokenizerFast(
            tokenizer_object=pipeline,
            clean_up_tokenization_spaces=False,
            chat_template=_read_chat_template(folder, config),
            **special,
            **arguments,
        )


@contextmanager
def refused(problem: str, remedy: str) -> Iterator[None]:
    """Raise UserError, with `problem` and `remedy`, for any error of the libraries inside the `with` block.

    They raise anything: bare Exception, and for errors in their Rust code one that is no Exception.
    """
    try:
        yield
    except BaseException as error:
        is_library_error = isinstance(error, Exception) or type(error).__name__ == "PanicException"
        if not is_library_error or user_message(error) is not None:
            raise
        raise UserError(f"{problem} ({brief(error)}); {remedy}") from error


def _read_pipeline(path: Path) -> Tokenizer:
    """The pipeline in a tokenizer.json, with the ids that it names.

    The library does not recognize a special token that is marked as `normalized` when it decodes, if the normalizer
    changes that token, as in some tokenizers of the Llama family: the EOS would be part of every response.
    """
    content = read_regular_file(path, MAX_BYTES)
    values = _parse(path, content)
    with refused(f"{path}: this version of tokenizers cannot read it", REMEDY):
        added = values.get("added_tokens") or []
        stated = {token["content"]: token["id"] for token in added}
        if normalized := [token for token in added if token["special"] and token["normalized"]]:
            for token in normalized:
                token["normalized"] = False
            content = dumps(values).encode()
        pipeline = Tokenizer.from_buffer(content)
    for text, number in stated.items():
        _require_id(path, "added_tokens", pipeline, text, number)
    if not pipeline.get_vocab_size():
        raise UserError(f"{path}: the vocabulary is empty; {REMEDY}")
    return pipeline


def _convert(folder: Path, config: Values, model: Values) -> tuple[Tokenizer, dict[str, str | None]]:
    """The pipeline that transformers makes of the files of another layout, and its special tokens.

    transformers gets copies of the vocabularies and of the settings that it needs, in a folder of their own.
    """
    vocabularies = [folder / name for name in OTHER_LAYOUTS if (folder / name).exists()]
    kept = {key: config[key] for key in CONVERSION_KEYS if key in config}
    named_class = kept.get("tokenizer_class")
    if named_class is not None and not (isinstance(named_class, str) and re.fullmatch(r"\w{1,80}", named_class)):
        raise UserError(f"{folder / CONFIG}: tokenizer_class is {str(named_class)[:80]!r}, not a name; {REMEDY}")
    with (
        refused(
            f"{folder}: no tokenizer that transformers can load",
            "add the files that tokenizer.save_pretrained writes, such as tokenizer.json and tokenizer_config.json",
        ),
        tempfile.TemporaryDirectory() as name,
    ):
        copies = Path(name)
        for path in vocabularies:
            (copies / path.name).write_bytes(read_regular_file(path, MAX_BYTES))
        (copies / CONFIG).write_text(dumps(kept))
        if isinstance(model.get("model_type"), str):
            (copies / "config.json").write_text(dumps({"model_type": model["model_type"]}))
        tokenizer = AutoTokenizer.from_pretrained(copies, local_files_only=True, trust_remote_code=False)
        pipeline: Tokenizer = tokenizer.backend_tokenizer
        return pipeline, {key: str(token) for key, token in tokenizer.special_tokens_map.items() if key in NAMED_TOKENS}


def _read_settings(path: Path, *, required: bool = True) -> Values:
    """The object in a JSON file; empty if there is no such file, or if it cannot be used and is not `required`."""
    try:
        return _parse(path, read_regular_file(path, MAX_BYTES)) if path.exists() else {}
    except UserError:
        if required:
            raise
        return {}


def _parse(path: Path, content: bytes) -> Values:
    try:
        values = parse_json(content)
    except MalformedJsonError as error:
        raise UserError(f"{path}: {error}; {REMEDY}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds {type(values).__name__}, not an object with settings; {REMEDY}")
    return values


def _named_tokens(path: Path, values: Values) -> dict[str, str | None]:
    """The texts of the special tokens in a file; None for those that the file takes away."""
    present = [key for key in NAMED_TOKENS if key in values]
    return {key: None if values[key] is None else _text(path, key, values[key]) for key in present}


def _tokens_of_model(pipeline: Tokenizer, model: Values) -> dict[str, str | None]:
    """BOS and EOS of config.json, which names their ids."""
    tokens: dict[str, str | None] = {}
    for key in ("bos_token", "eos_token"):
        number = model.get(f"{key}_id")
        if isinstance(number, list) and number:
            number = number[0]
        if isinstance(number, int) and 0 <= number < 2**32 and (text := pipeline.id_to_token(number)) is not None:
            tokens[key] = text
    return tokens


def _in_vocabulary(path: Path, pipeline: Tokenizer, named: dict[str, str | None]) -> dict[str, str]:
    eos = named.get("eos_token")
    if eos is not None and pipeline.token_to_id(eos) is None:
        raise UserError(f"{path}: eos_token is {eos[:80]!r}, which is not in the vocabulary; name the one that is")
    return {key: text for key, text in named.items() if text is not None and pipeline.token_to_id(text) is not None}


def _add_tokens(path: Path, pipeline: Tokenizer, config: Values) -> None:
    """Add the tokens that only tokenizer_config.json has, under the ids that it gives them."""
    stated = config.get("added_tokens_decoder") or {}
    if not isinstance(stated, dict) or not all(number.isdecimal() and len(number) < 10 for number in stated):
        raise UserError(f"{path}: added_tokens_decoder is not an object with token ids as keys; {REMEDY}")
    for number, token in sorted(stated.items(), key=lambda entry: int(entry[0])):
        text = _text(path, f"added_tokens_decoder[{number!r}]", token)
        flags = {flag: token[flag] for flag in FLAGS if flag in token}
        if not all(isinstance(value, bool) for value in flags.values()):
            raise UserError(f"{path}: added_tokens_decoder[{number!r}] has flags that are not true or false; {REMEDY}")
        if pipeline.token_to_id(text) is None:
            pipeline.add_tokens([AddedToken(text, **flags | ({"normalized": False} if flags.get("special") else {}))])
        _require_id(path, "added_tokens_decoder", pipeline, text, int(number))
    known = {token.content for token in pipeline.get_added_tokens_decoder().values()}
    for key in EXTRA_TOKENS:
        extra = config.get(key) or []
        texts = [
            _text(path, key, token)
            for token in (extra.values() if isinstance(extra, dict) else _list(path, key, extra))
        ]
        pipeline.add_special_tokens(
            [text for text in texts if text not in known and pipeline.token_to_id(text) is not None]
        )


def _require_id(path: Path, key: str, pipeline: Tokenizer, text: str, number: object) -> None:
    actual = pipeline.token_to_id(text)
    if actual != number:
        raise UserError(
            f"{path}: {key} gives {text[:80]!r} the id {number}, but by the vocabulary it is {actual}; "
            "give the files of one and the same tokenizer"
        )


def _list(path: Path, key: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise UserError(f"{path}: {key} is not a list of tokens; {REMEDY}")
    return value


def _text(path: Path, key: str, token: object) -> str:
    """The text of a token in a settings file: a string, or an object with its `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str) or not text:
        raise UserError(f"{path}: {key} is {str(token)[:80]!r}, not a token; {REMEDY}")
    return text


def _read_chat_template(folder: Path, config: Values) -> str | None:
    """The chat template in a file of its own or in tokenizer_config.json; of several templates, none."""
    path = folder / CHAT_TEMPLATE
    if path.exists():
        return read_regular_file(path, MAX_BYTES).decode(errors="replace")
    template = config.get("chat_template")
    return template if isinstance(template, str) else None


def _length_and_side(path: Path, config: Values) -> Values:
    """`model_max_length` and `padding_side`, if they are set; other programs that read the final model use them."""
    kept = {key: config[key] for key in ("model_max_length", "padding_side") if config.get(key) is not None}
    length, side = kept.get("model_max_length", 1), kept.get("padding_side", "right")
    if isinstance(length, bool) or not isinstance(length, int | float) or not length >= 1:
        raise UserError(f"{path}: model_max_length is {str(length)[:80]!r}, not a number of tokens; {REMEDY}")
    if side not in ("left", "right"):
        raise UserError(f"{path}: padding_side is {str(side)[:80]!r}, not left or right; {REMEDY}")
    return kept
