"""The base model is brought into one layout, and an unusable one is refused with a one-line error."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertLMHeadModel

from rlhf.config import ModelConfig
from rlhf.data import hub
from rlhf.data.hub import download_model
from rlhf.errors import UserError
from rlhf.models.checks import read_model
from rlhf.stage_config import ModelStage
from rlhf.stages.prepare_model import prepare_model
from tests.support.model_folders import as_pickle, edit_json, edit_tensors
from tests.support.paths import SHARED
from tests.support.tiny_models import tiny_model

TEXT = "\n\nHuman: Why is the sky blue?\n\nAssistant: Air, mostly."


def stage(**settings: object) -> ModelStage:
    return ModelStage(seed=0, model=ModelConfig.model_validate(settings))


def cut_file(path: Path) -> None:
    os.truncate(path, 5000)


def assert_same_model(source: Path, copy: Path) -> None:
    """Both folders contain models with the same float32 logits and tokenizers with the same ids."""
    ids = [AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt").input_ids for folder in (source, copy)]
    assert torch.equal(*ids)
    logits = [AutoModelForCausalLM.from_pretrained(folder, dtype="float32")(ids[0]).logits for folder in (source, copy)]
    assert torch.equal(*logits)


@pytest.mark.parametrize("pickled", [False, True])
def test_a_folder_is_brought_into_one_layout(tmp_path: Path, *, pickled: bool) -> None:
    source, output = tiny_model(tmp_path / "source"), tmp_path / "output"
    edit_json(source / "generation_config.json", do_sample=False, temperature=0.3)
    if pickled:
        as_pickle(source)
    output.mkdir()

    metrics = prepare_model(stage(path=str(source)), {"source": source}, output)

    model = output / "model"
    assert {path.name for path in model.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
    assert_same_model(source, model)
    assert metrics == {"parameters": sum(tensor.numel() for tensor in load_file(model / "model.safetensors").values())}
    generation = json.loads((model / "generation_config.json").read_text())
    assert generation.keys() == {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"}


def test_weights_are_stored_in_the_configured_dtype(tmp_path: Path) -> None:
    source, output = tiny_model(tmp_path / "source"), tmp_path / "output"
    output.mkdir()
    prepare_model(stage(path=str(source), dtype="bfloat16"), {"source": source}, output)
    tensors = load_file(output / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert json.loads((output / "model" / "config.json").read_text())["dtype"] == "bfloat16"


def test_shards_are_read(tmp_path: Path) -> None:
    unsplit, sharded = tiny_model(tmp_path / "unsplit"), tiny_model(tmp_path / "sharded")
    (sharded / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(unsplit).save_pretrained(sharded, max_shard_size="50KB")
    assert (sharded / "model.safetensors.index.json").is_file()
    model, _ = read_model(sharded, "float32", trains_reward_model=True)
    assert torch.equal(model.state_dict()["lm_head.weight"], load_file(unsplit / "model.safetensors")["lm_head.weight"])

    next(sharded.glob("model-00002-*.safetensors")).unlink()
    with pytest.raises(UserError, match=r"1 of \d+ shards are missing \(model-00002-.*\); copy them"):
        read_model(sharded, "float32", trains_reward_model=True)


def test_safetensors_are_read_if_there_is_a_pickle_too(tmp_path: Path) -> None:
    source = tiny_model(tmp_path)
    (source / "pytorch_model.bin").write_bytes(b"not read")
    read_model(source, "float32", trains_reward_model=True)


class Exploit:
    """An object of a hostile pickle: reading it creates a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.trace,))


def test_a_pickle_with_code_is_refused_without_running_the_code(tmp_path: Path) -> None:
    source, trace = tiny_model(tmp_path / "source"), tmp_path / "trace"
    (source / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1), "exploit": Exploit(trace)}, source / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is damaged.*or contains more than tensors"):
        read_model(source, "float32", trains_reward_model=True)
    assert not trace.exists()


def write_bidirectional_model(folder: Path) -> None:
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    config = BertConfig(
        vocab_size=rows, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertLMHeadModel(config).save_pretrained(folder)


EOS_FILES = ("tokenizer_config.json", "config.json")
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        r"config\.json: missing; give a folder as save_pretrained",
    ),
    "broken config": (
        lambda folder: (folder / "config.json").write_text("{"),
        r"config\.json: not JSON .*; copy the model's own",
    ),
    "architecture of its own": (
        lambda folder: edit_json(folder / "config.json", model_type="mine", auto_map={"AutoConfig": "mine.Config"}),
        r"model_type \(mine\) is not one that transformers .* code from a model folder is never run; use",
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        r"no weights \(model\.safetensors or pytorch_model\.bin",
    ),
    "cut weights": (
        lambda folder: cut_file(folder / "model.safetensors"),
        r"safetensors are damaged \(.*\); copy them again",
    ),
    "cut pickle": (
        lambda folder: cut_file(as_pickle(folder)),
        r"pytorch_model\.bin is damaged",
    ),
    "missing tensor": (
        lambda folder: edit_tensors(folder, lambda tensors: tensors.pop("lm_head.weight")),
        r"1 tensors of the model are not in its weights: lm_head\.weight",
    ),
    "missing tensor in a pickle": (
        lambda folder: as_pickle(edit_tensors(folder, lambda tensors: tensors.pop("lm_head.bias"))),
        r"1 tensors of the model are not in its weights: lm_head\.bias",
    ),
    "weights that are not finite": (
        lambda folder: edit_tensors(folder, lambda tensors: tensors["lm_head.weight"].fill_(float("nan"))),
        r"the model's output is not finite; the weights are damaged, copy them again",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        r"no tokenizer \(tokenizer\.json, .* are all missing\); add that of the model",
    ),
    "no end of text": (
        lambda folder: [edit_json(folder / name, eos_token=None, eos_token_id=None) for name in EOS_FILES],
        r"the tokenizer has no EOS token",
    ),
    "another model's tokenizer": (
        lambda folder: edit_tensors_and_rows(folder, rows=300),
        r"the tokenizer's ids go up to 319, but the model has 300 embeddings; use the tokenizer",
    ),
    "a model that reads in both directions": (
        write_bidirectional_model,
        r"the output of BertLMHeadModel depends on later tokens; use a model that was trained to generate text",
    ),
}


def edit_tensors_and_rows(folder: Path, rows: int) -> None:
    def cut(tensors: dict[str, torch.Tensor]) -> None:
        for name in ("transformer.wte.weight", "lm_head.weight", "lm_head.bias"):
            tensors[name] = tensors[name][:rows].clone()

    edit_tensors(folder, cut)
    edit_json(folder / "config.json", vocab_size=rows)


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unusable_folder_is_refused_with_path_problem_and_remedy(tmp_path: Path, damage: str) -> None:
    source = tiny_model(tmp_path)
    inflict, message = DAMAGES[damage]
    inflict(source)
    with pytest.raises(UserError, match=message) as caught:
        read_model(source, "float32", trains_reward_model=True)
    assert str(source) in str(caught.value)
    assert "\n" not in str(caught.value)


class FakeHub:
    """A hub with one repository; snapshot_download creates the files that match the patterns."""

    def __init__(self, cache: Path, files: list[str]) -> None:
        self.cache, self.files, self.revisions = cache, files, set[str]()

    def snapshot_download(
        self, _repository: str, *, repo_type: str, revision: str, allow_patterns: list[str], ignore_patterns: list[str]
    ) -> str:
        assert repo_type == "model"
        self.revisions.add(revision)
        self.cache.mkdir(exist_ok=True)
        for name in self.files:
            path = Path(name)
            allowed = any(path.match(pattern) for pattern in allow_patterns)
            if allowed and not any(path.match(pattern) for pattern in ignore_patterns):
                (self.cache / name).touch()
        return str(self.cache)


@pytest.mark.parametrize(
    ("weights", "fetched"),
    [
        (["model.safetensors", "pytorch_model.bin"], {"model.safetensors"}),
        (["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"], {"pytorch_model.bin"}),
    ],
)
def test_safetensors_are_downloaded_if_there_are_any_and_else_the_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: list[str], fetched: set[str]
) -> None:
    described = ["config.json", "tokenizer.json", "merges.txt"]
    fake = FakeHub(tmp_path / "cache", [*described, *weights, "onnx/model.safetensors", "README.md", "modeling.py"])
    monkeypatch.setattr(hub, "snapshot_download", fake.snapshot_download)
    folder = download_model("someone/model", "abc")
    assert {path.name for path in folder.iterdir()} == {*described, *fetched}
    assert fake.revisions == {"abc"}


def test_an_unreachable_hub_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise httpx.ConnectError("no route")

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(
        UserError, match=r"someone/model at abc .*\(ConnectError: no route\); check .* or set model\.path"
    ):
        download_model("someone/model", "abc")


@pytest.mark.skipif(not (SHARED / "models" / "TinyStories-656K").is_dir(), reason="no TinyStories-656K in RLHF_SHARED")
def test_a_published_model_with_tied_embeddings_is_copied_completely(tmp_path: Path) -> None:
    source = SHARED / "models" / "TinyStories-656K"
    metrics = prepare_model(stage(path=str(source)), {"source": source}, tmp_path)
    assert metrics == {"parameters": 656_000}
    assert_same_model(source, tmp_path / "model")
