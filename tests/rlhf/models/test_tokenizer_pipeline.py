"""What a tokenizer of unknown origin computes: the ids of its tokenizer.json, and text that comes back as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from rlhf.errors import UserError
from rlhf.models.tokenization import (
    decode_response,
    decode_responses,
    encode_prompt,
    encode_response,
    load_tokenizer,
)
from tests.support.tiny_models import END
from tests.support.tokenizer_folders import (
    CONFIG,
    PIPELINE,
    Values,
    byte_level,
    digits_apart,
    edit_values,
    trained,
    write_tokenizer,
)

PROMPT = "\n\nHuman: What can I cook with 12345 eggs?\n\nAssistant:"
RESPONSE = " You can make 12 omelettes.\n\n1. Beat them.\n2. Fry them!"


@pytest.mark.parametrize(
    "tokenizer_class", ["GPT2Tokenizer", "GPTNeoXTokenizerFast", "LlamaTokenizerFast", "Qwen2Tokenizer", "NoSuchClass"]
)
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_ids_are_those_of_tokenizer_json_whatever_class_is_named(
    tmp_path: Path, tokenizer_class: str, model_type: str
) -> None:
    pipeline = digits_apart()
    folder = write_tokenizer(tmp_path / "base", pipeline, tokenizer_class=tokenizer_class)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    tokenizer = load_tokenizer(folder)
    assert encode_prompt(tokenizer, PROMPT) == pipeline.encode(PROMPT).ids
    assert encode_response(tokenizer, RESPONSE)[:-1] == pipeline.encode(RESPONSE).ids

    copy = tmp_path / "copy"  # as the exported model is, with which other programs go on
    tokenizer.save_pretrained(copy)
    (copy / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert json.loads((copy / CONFIG).read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    for read in (load_tokenizer, AutoTokenizer.from_pretrained):
        assert read(copy)(PROMPT).input_ids == pipeline.encode(PROMPT).ids


def test_a_prefix_space_is_no_part_of_a_response(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, byte_level(add_prefix_space=True)))
    for response in (RESPONSE, "\n\nFirst, wash it.", "no space", "  two"):
        assert decode_response(tokenizer, encode_response(tokenizer, response)) == response
    rice = tokenizer.convert_tokens_to_ids(list("rice"))
    assert decode_responses(tokenizer, [rice, [], [tokenizer.eos_token_id]]) == ["rice", "", ""]


def test_padding_truncation_and_dropout_of_the_file_do_not_apply(tmp_path: Path) -> None:
    """Dropout skips merges at random; a fixed padding of 10^12 tokens would take all memory."""
    folder = write_tokenizer(tmp_path, byte_level())
    ids = encode_prompt(load_tokenizer(folder), PROMPT)

    def disturb(values: Values) -> None:
        values["model"]["dropout"] = 0.9
        values["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
        values["padding"] = {
            "strategy": {"Fixed": 10**12},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": END,
        }

    edit_values(folder / PIPELINE, disturb)
    assert encode_prompt(load_tokenizer(folder), PROMPT) == ids
    assert len(load_tokenizer(folder)("rice").input_ids) < 5


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer"),
    [
        (normalizers.Lowercase(), pre_tokenizers.ByteLevel(add_prefix_space=False)),
        (normalizers.Replace("\n", " "), pre_tokenizers.ByteLevel(add_prefix_space=False)),
        (
            None,
            pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(use_regex=False)]),
        ),
    ],
    ids=["lower case", "no line breaks", "single spaces"],
)
def test_a_tokenizer_that_does_not_give_back_text_is_refused(
    tmp_path: Path, normalizer: Any, pre_tokenizer: Any
) -> None:
    folder = write_tokenizer(tmp_path, trained(pre_tokenizer, normalizer))
    with pytest.raises(UserError, match=r"the tokenizer does not give back text: '.*' comes back as '.*'; use a"):
        load_tokenizer(folder)


def test_accents_may_come_back_in_their_composed_form(tmp_path: Path) -> None:
    """As with GPT-NeoX's tokenizer; the letters are the same to a reader."""
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, trained(pre_tokenizers.ByteLevel(False), normalizers.NFC())))
    assert decode_response(tokenizer, encode_response(tokenizer, " cafe\u0301")) == " caf\u00e9"


def test_an_eos_that_the_normalizer_changes_is_no_part_of_a_response(tmp_path: Path) -> None:
    """The normalizer puts a space before every text, also before the EOS where it is looked up."""
    pipeline = trained(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.Prepend(" "))
    folder = write_tokenizer(tmp_path / "base", pipeline)
    edit_values(folder / PIPELINE, lambda values: values["added_tokens"][0].update(normalized=True))
    tokenizer = load_tokenizer(folder)
    ids = encode_response(tokenizer, RESPONSE)
    assert ids[-1] == 0
    assert decode_response(tokenizer, ids) == RESPONSE

    tokenizer.save_pretrained(tmp_path / "copy")
    assert AutoTokenizer.from_pretrained(tmp_path / "copy").decode([0], skip_special_tokens=True) == ""


def test_text_that_the_tokenizer_fails_on_is_one_line(tmp_path: Path) -> None:
    """The pattern takes time that doubles with every letter; the regex library gives up, in its own kind of error."""
    split = pre_tokenizers.Split(Regex(r"(z+)+y|\w+"), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, trained(pre_tokenizers.Sequence([split, level]))))
    for encode in (encode_prompt, encode_response):
        with pytest.raises(UserError, match=r"^the tokenizer cannot process ':? zzz.*\(PanicException: .*retry-limit"):
            encode(tokenizer, " " + 50 * "z")
