"""No code of a model folder is run, and nobody is asked whether it should be."""

from __future__ import annotations

import ast
import builtins
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import rlhf
from rlhf.config import ModelConfig
from rlhf.errors import UserError
from rlhf.evaluation.toxicity.detoxify_model import read_detoxify
from rlhf.evaluation.toxicity.second_opinion import load_second_opinion
from rlhf.models.checks import read_model
from rlhf.models.loading import load_reward_model
from rlhf.stage_config import ModelStage
from rlhf.stages.prepare_model import prepare_model
from rlhf.storage.files import file_sha256
from tests.support.detoxify_checkpoints import ORIGINAL, make_checkpoint, make_classifier
from tests.support.model_folders import edit_json
from tests.support.tiny_models import tiny_model

PACKAGE = Path(rlhf.__file__).parent
LOADERS = ("from_pretrained", "from_config")
OWN_CODE = {
    name: f"own.{name}"
    for name in ("AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoTokenizer")
}
CPU = torch.device("cpu")


def is_safe(call: ast.Call) -> bool:
    """Whether a call says that no code of the folder may be run."""
    values = {keyword.arg: keyword.value for keyword in call.keywords}
    value = values.get("trust_remote_code")
    return isinstance(value, ast.Constant) and value.value is False


def test_every_load_by_an_auto_class_says_that_no_code_may_run() -> None:
    """`kind` is the name of a parameter that holds an Auto class."""
    calls, unsafe = 0, []
    for path in sorted(PACKAGE.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in LOADERS:
                receiver = ast.unparse(call.func.value).rpartition(".")[2]
                if receiver.startswith("Auto") or receiver == "kind":
                    calls += 1
                    if not is_safe(call):
                        unsafe.append(f"{path.relative_to(PACKAGE)}:{call.lineno}")
    assert unsafe == []
    assert calls >= 8


def add_code(folder: Path, **config: object) -> Path:
    """Give the folder code that would write a file beside it, and name that code for every Auto class."""
    (folder / "own.py").write_text(f"open({str(folder.parent / 'executed')!r}, 'w')\n")
    edit_json(folder / "config.json", auto_map=OWN_CODE, **config)
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.AutoTokenizer", None]})
    return folder


def read_encoder(folder: Path) -> object:
    checkpoint = folder / "toxic.ckpt"
    return read_detoxify(checkpoint, file_sha256(checkpoint), folder, CPU)


def encoder(folder: Path) -> Path:
    make_checkpoint(folder, "bert", ORIGINAL, len(ORIGINAL))
    return folder


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "base model": (tiny_model, lambda folder: read_model(folder, "float32", trains_reward_model=True)),
    "classifier": (
        lambda folder: make_classifier(folder, "bert", ["a", "b"]),
        lambda folder: load_second_opinion(folder, CPU),
    ),
    "encoder": (encoder, read_encoder),
    "reward model": (tiny_model, lambda folder: load_reward_model(folder, "float32")),
}


@pytest.mark.parametrize("model_type", [None, "own"], ids=["a known model", "a model of its own"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_with_code_is_read_without_it_or_refused_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, model_type: str | None
) -> None:
    def ask(question: object = "") -> str:
        raise AssertionError(f"asks on the terminal: {question}")

    monkeypatch.setattr(builtins, "input", ask)
    make, load = KINDS[kind]
    folder = add_code(make(tmp_path / "folder"), **({"model_type": model_type} if model_type else {}))
    if model_type is None and kind != "reward model":
        load(folder)
    else:
        with pytest.raises(UserError, match=r"code from a model folder is never run|not in its weights: score"):
            load(folder)
    assert not (tmp_path / "executed").exists()
    assert json.loads((folder / "config.json").read_text())["auto_map"] == OWN_CODE  # the folder is left as it was


def test_no_saved_folder_names_code(tmp_path: Path) -> None:
    """Also for whoever reads it without this package."""
    source = add_code(tiny_model(tmp_path / "source"))
    prepare_model(ModelStage(seed=0, model=ModelConfig(path=str(source))), {"source": source}, tmp_path)
    written = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert "own.py" not in written
    assert not any(b"auto_map" in content for content in written.values())
