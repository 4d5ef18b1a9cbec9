"""Tokenizer files of unknown origin: which special tokens they give, and what cannot be read is one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from rlhf.errors import UserError
from rlhf.models.tokenization import (
    decode_response,
    encode_prompt,
    encode_response,
    load_tokenizer,
)
from tests.support.tiny_models import END, tiny_tokenizer
from tests.support.tokenizer_folders import (
    CONFIG,
    PIPELINE,
    Values,
    byte_level,
    digits_apart,
    edit_values,
    write_tokenizer,
)

PROMPT = "\n\nHuman: What can I cook with 12345 eggs?\n\nAssistant:"
RESPONSE = " You can make 12 omelettes.\n\n1. Beat them.\n2. Fry them!"


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an intact tokenizer; copy it with `damaged`."""
    return write_tokenizer(tmp_path_factory.mktemp("intact"), byte_level())


def damaged(intact: Path, folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for path in intact.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / name).write_bytes(content)
    return folder


# Special tokens


def test_special_tokens_come_from_either_file_and_else_from_the_model(tmp_path: Path) -> None:
    folder = write_tokenizer(
        tmp_path, byte_level(), eos_token={"content": END, "lstrip": False, "__type": "AddedToken"}
    )
    assert load_tokenizer(folder).eos_token == END

    (folder / CONFIG).write_text("{}")
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": END, "pad_token": "~"}))
    assert (load_tokenizer(folder).eos_token, load_tokenizer(folder).pad_token) == (END, "~")

    (folder / "special_tokens_map.json").unlink()
    (folder / CONFIG).unlink()
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "eos_token_id": [0, 7]}))
    assert load_tokenizer(folder).eos_token == END


def test_added_tokens_get_the_ids_that_the_files_give_them(tmp_path: Path) -> None:
    entries = byte_level().get_vocab_size()
    folder = write_tokenizer(
        tmp_path, byte_level(), added_tokens_decoder={str(entries): {"content": "<|turn|>", "special": True}}
    )
    assert load_tokenizer(folder).convert_tokens_to_ids("<|turn|>") == entries

    edit_values(folder / CONFIG, lambda values: values.update(added_tokens_decoder={"9": {"content": "<|turn|>"}}))
    with pytest.raises(
        UserError, match=rf"config\.json: added_tokens_decoder gives '<\|turn\|>' the id 9, .* {entries}"
    ):
        load_tokenizer(folder)

    pipeline = byte_level()
    pipeline.add_tokens([AddedToken("<|turn|>")])
    folder = write_tokenizer(tmp_path, pipeline)
    edit_values(folder / PIPELINE, lambda values: values["added_tokens"][-1].update(id=999_999))
    with pytest.raises(
        UserError, match=rf"tokenizer\.json: added_tokens gives '<\|turn\|>' the id 999999, .* {entries}"
    ):
        load_tokenizer(folder)


def test_an_eos_token_outside_the_vocabulary_is_an_error_and_a_pad_token_is_not_used(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, byte_level(), pad_token="<|no such|>")  # noqa: S106
    assert load_tokenizer(folder).pad_token == END
    edit_values(folder / CONFIG, lambda values: values.update({"eos_token": "<|no such|>"}))
    with pytest.raises(
        UserError, match=r"config\.json: eos_token is '<\|no such\|>', which is not in the vocabulary; "
    ):
        load_tokenizer(folder)


# Files that cannot be read


def changed_pipeline(intact: Path, **changes: Any) -> bytes:
    values = json.loads((intact / PIPELINE).read_text())
    model = values["model"] | changes.pop("model", {})
    return json.dumps(values | {"model": model} | changes).encode()


DAMAGES: dict[str, Values] = {
    "unknown model": {"model": {"type": "BPE9"}},
    "unknown pre-tokenizer": {"pre_tokenizer": {"type": "Fancy"}},
    "another version": {"version": "9.0"},
    "dangling merge": {"model": {"merges": [["no", "such"]]}},
    "negative id": {"model": {"vocab": {"a": -1}}},
    "wrong type": {"added_tokens": "none"},
    "wrong element": {"added_tokens": [3]},
    "broken pattern": {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated"}},
    "empty vocabulary": {"model": {"vocab": {}, "merges": []}, "added_tokens": []},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_tokenizer_json_that_cannot_be_read_is_one_line(intact: Path, tmp_path: Path, damage: str) -> None:
    folder = damaged(intact, tmp_path, PIPELINE, changed_pipeline(intact, **DAMAGES[damage]))
    require_one_line(folder, PIPELINE)


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[" * 100_000, b'{"model": ' * 5000, b"\xff\xfe{}"])
@pytest.mark.parametrize("name", [PIPELINE, CONFIG, "special_tokens_map.json"])
def test_a_file_that_is_no_json_object_is_one_line(intact: Path, tmp_path: Path, name: str, content: bytes) -> None:
    require_one_line(damaged(intact, tmp_path, name, content), name)


@pytest.mark.parametrize(
    "values",
    [
        {"eos_token": 3},
        {"eos_token": {"text": END}},
        {"eos_token": [END]},
        {"added_tokens_decoder": [END]},
        {"added_tokens_decoder": {"x": {"content": END}}},
        {"added_tokens_decoder": {"0": 3}},
        {"added_tokens_decoder": {"0": {"content": END, "special": "yes"}}},
        {"model_max_length": "long"},
        {"padding_side": "top"},
    ],
)
def test_a_setting_of_the_wrong_type_is_one_line_that_names_it(intact: Path, tmp_path: Path, values: Values) -> None:
    folder = damaged(intact, tmp_path, CONFIG, json.dumps({"eos_token": END, **values}).encode())
    require_one_line(folder, CONFIG, next(iter(values)))


def test_code_and_paths_are_ignored_and_a_template_is_only_text(intact: Path, tmp_path: Path) -> None:
    """Nothing runs, is asked for, or is read from elsewhere; a template that never ends is kept, but not rendered."""
    elsewhere = write_tokenizer(tmp_path / "elsewhere", digits_apart())
    folder = tmp_path / "model"
    values = {
        "eos_token": END,
        "auto_map": {"AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"]},
        "chat_template": "{% for a in range(10**18) %}{{ a }}{% endfor %}",
        "tokenizer_file": str(elsewhere / PIPELINE),
        "fast_tokenizer_files": ["tokenizer.4.0.0.json"],
        "gguf_file": str(elsewhere / PIPELINE),
        "trust_remote_code": True,
        "init_inputs": [1, 2, 3],
        "extra_special_tokens": {"model": END},
    }
    damaged(intact, folder, CONFIG, json.dumps(values).encode())
    (folder / "code.py").write_text("raise SystemExit(99)")
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "auto_map": values["auto_map"]}))
    (folder / "chat_template.jinja").write_text(str(values["chat_template"]))
    tokenizer = load_tokenizer(folder)
    assert encode_prompt(tokenizer, PROMPT) == encode_prompt(load_tokenizer(intact), PROMPT)
    assert tokenizer.chat_template == values["chat_template"]


@pytest.mark.parametrize("name", [PIPELINE, CONFIG])
def test_a_pipe_or_a_folder_in_place_of_a_file_is_one_line(intact: Path, tmp_path: Path, name: str) -> None:
    for number, make in enumerate((os.mkfifo, os.mkdir)):
        folder = damaged(intact, tmp_path / str(number), name, b"")
        (folder / name).unlink()
        make(folder / name)
        require_one_line(folder, name)


# Layouts without tokenizer.json


def gpt2_layout(folder: Path) -> Tokenizer:
    """Write vocab.json and merges.txt; returns the pipeline that they describe."""
    pipeline = byte_level()
    model = json.loads(pipeline.to_str())["model"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in model["merges"]))
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    return pipeline


def test_the_first_layout_of_gpt2_is_read(tmp_path: Path) -> None:
    pipeline = gpt2_layout(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert encode_prompt(tokenizer, PROMPT) == pipeline.encode(PROMPT).ids
    assert (tokenizer.eos_token, len(tokenizer)) == (END, pipeline.get_vocab_size())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", b"{"),
        ("vocab.json", b'{"a": "b"}'),
        ("merges.txt", b"#version\n\xff\n"),
        ("merges.txt", b"#version\nno such\n"),
        ("tokenizer.model", b"\x80\x04\x95 a pickle, or half of a sentencepiece model"),
        (CONFIG, b'{"auto_map": {"AutoTokenizer": ["code.T", null]}, "tokenizer_class": "../x"}'),
        (CONFIG, b'{"tokenizer_class": "AutoModelForCausalLM"}'),
    ],
)
def test_damaged_files_of_other_layouts_are_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    gpt2_layout(tmp_path)
    if name == "tokenizer.model":
        for other in ("vocab.json", "merges.txt"):
            (tmp_path / other).unlink()
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / name).write_bytes(content)
    require_one_line(tmp_path)


def require_one_line(folder: Path, *mentioned: str) -> None:
    """Loading raises one UserError of one line that names the folder, what is `mentioned`, and a remedy."""
    with pytest.raises(UserError) as raised:
        load_tokenizer(folder)
    message = str(raised.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    assert "; " in message
    assert all(name in message for name in mentioned), message


# Any change of the files

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))


@st.composite
def mutated(draw: st.DrawFn, values: Any) -> Any:
    """`values` with one part, at any depth, replaced or removed."""
    if isinstance(values, dict) and values and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(values)))
        rest = {name: value for name, value in values.items() if name != key}
        return rest if draw(st.integers(0, 5)) == 0 else rest | {key: draw(mutated(values[key]))}
    if isinstance(values, list) and values and draw(st.integers(0, 4)):
        index = draw(st.integers(0, len(values) - 1))
        return [*values[:index], draw(mutated(values[index])), *values[index + 1 :]]
    return draw(JSON)


FULL_CONFIG = {
    "eos_token": END,
    "bos_token": {"content": END, "lstrip": False, "special": True},
    "additional_special_tokens": ["!"],
    "added_tokens_decoder": {"0": {"content": END, "special": True}},
    "model_max_length": 1024,
    "padding_side": "left",
    "tokenizer_class": "GPT2Tokenizer",
    "add_prefix_space": False,
}
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def small_pipeline() -> Values:
    """A pipeline of every kind of part, small enough to mutate anywhere."""
    pipeline = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    pipeline.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace("x", "y")])
    pipeline.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+"), "isolated")
    pipeline.decoder = decoders.Sequence([decoders.Fuse()])
    pipeline.add_special_tokens([END])
    values: Values = json.loads(pipeline.to_str())
    return values


@FUZZ
@given(mutated(small_pipeline()))
def test_any_change_of_tokenizer_json_loads_or_is_one_line(tmp_path: Path, values: Any) -> None:
    (tmp_path / CONFIG).write_text(json.dumps({"eos_token": END}))
    loads_or_is_one_line(tmp_path, PIPELINE, json.dumps(values).encode())


@FUZZ
@given(mutated(FULL_CONFIG))
def test_any_change_of_tokenizer_config_loads_or_is_one_line(intact: Path, tmp_path: Path, values: Any) -> None:
    (tmp_path / PIPELINE).write_bytes((intact / PIPELINE).read_bytes())
    loads_or_is_one_line(tmp_path, CONFIG, json.dumps(values).encode())


@FUZZ
@given(st.integers(0, 20_000), st.binary(max_size=3))
def test_any_torn_or_overwritten_tokenizer_json_loads_or_is_one_line(
    intact: Path, tmp_path: Path, position: int, content: bytes
) -> None:
    whole = (intact / PIPELINE).read_bytes()
    (tmp_path / CONFIG).write_bytes((intact / CONFIG).read_bytes())
    kept = whole[position + len(content) :] if content else b""
    loads_or_is_one_line(tmp_path, PIPELINE, whole[:position] + content + kept)


def loads_or_is_one_line(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    message, tokenizer = None, None
    try:
        tokenizer = load_tokenizer(folder)
    except UserError as error:
        message = str(error)
    if tokenizer is None:
        assert message is not None
        assert message.startswith(str(folder))
        assert "\n" not in message
    else:
        assert decode_response(tokenizer, encode_response(tokenizer, RESPONSE)) == RESPONSE


def test_the_tiny_tokenizer_of_other_tests_is_intact() -> None:
    assert decode_response(tiny_tokenizer(), encode_response(tiny_tokenizer(), RESPONSE)) == RESPONSE
