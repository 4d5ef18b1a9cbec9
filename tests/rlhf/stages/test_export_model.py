"""The exported model: transformers loads it, and the numbers of its card are those of results.json."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rlhf.config import ExportConfig, ResponsesConfig, RunConfig, SamplingConfig
from rlhf.report.model_card import refresh_card
from rlhf.stage_config import ExportStage, part_of
from rlhf.stages.aggregate_results import aggregate_results
from rlhf.stages.export_model import export_model
from rlhf.storage.files import copy_model
from tests.support.results_fixture import fake_config, fake_run
from tests.support.tiny_models import tiny_model

CONFIG = RunConfig(
    run_name="fake",
    responses=ResponsesConfig(sampling=SamplingConfig(max_new_tokens=7, temperature=0.8, top_p=0.9)),
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Path]:
    root = tmp_path_factory.mktemp("run")
    inputs = fake_run(root)
    tiny_model(inputs["rlhf"] / "model")
    results = root / "results"
    results.mkdir()
    aggregate_results(fake_config(synthetic=False), inputs, results)
    inputs = {"rlhf": inputs["rlhf"], "results": results}
    output = root / "exported"
    output.mkdir()
    export_model(part_of(CONFIG, ExportStage), inputs, output)
    return inputs, output / "model"


def test_transformers_loads_the_folder_and_samples_from_it(exported: tuple[dict[str, Path], Path]) -> None:
    inputs, folder = exported
    assert not any(path.is_symlink() for path in folder.iterdir())
    model = AutoModelForCausalLM.from_pretrained(folder)
    source = AutoModelForCausalLM.from_pretrained(inputs["rlhf"] / "model")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), source.parameters(), strict=True))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = GenerationConfig.from_pretrained(folder)
    assert (settings.do_sample, settings.temperature, settings.top_p, settings.max_new_tokens) == (True, 0.8, 0.9, 7)
    assert settings.top_k == 0
    assert settings.pad_token_id == settings.eos_token_id == 0
    prompt = tokenizer("\n\nHuman: Why is the sky blue?\n\nAssistant:", return_tensors="pt")
    drawn = model.generate(**prompt)
    assert 1 <= drawn.shape[1] - prompt.input_ids.shape[1] <= 7


def test_weights_are_hard_links_and_other_files_are_copies(exported: tuple[dict[str, Path], Path]) -> None:
    inputs, folder = exported
    for file in (inputs["rlhf"] / "model").iterdir():
        shared = file.samefile(folder / file.name)
        assert shared == (file.suffix == ".safetensors"), file.name


def test_weights_are_copied_if_links_are_not_possible(
    exported: tuple[dict[str, Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    copy_model(exported[1], tmp_path / "model")
    (tmp_path / "model" / "leftover").write_text("from an earlier run")
    copy_model(exported[1], tmp_path / "model")
    files = {path.name: path.read_bytes() for path in exported[1].iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == files
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_numbers_of_the_card_are_those_of_the_results(exported: tuple[dict[str, Path], Path]) -> None:
    inputs, folder = exported
    content: dict[str, Any] = json.loads((inputs["results"] / "results.json").read_bytes())
    card = ModelCard.load(folder / "README.md")  # the hub's own reader
    assert card.data.license == "unknown"
    assert card.data.base_model == "EleutherAI/gpt-j-6b"
    assert card.data.library_name == "transformers"
    comparison = content["policy_comparison"]
    expected = {
        "reward": content["reward"],
        "toxicity": content["toxicity"],
        "loss": comparison["validation_loss"],
        "length": comparison["response_tokens"],
        "ended": comparison["ended_share"],
        "repetition": comparison["repetition"],
    }
    assert card.data.eval_results is not None
    assert {row.metric_type: row.metric_value for row in card.data.eval_results} == {
        name: part["rlhf"]["mean"] for name, part in expected.items()
    }
    rows = re.findall(r"^\| ([a-z -]+) \| (\S+) \| (\S+) \| (\S+) \| (\S+) to (\S+) \|$", card.text, flags=re.MULTILINE)
    assert len(rows) == len(expected)
    for row, part in zip(rows, expected.values(), strict=True):
        difference = part["difference"]
        numbers = [part["sft"]["mean"], part["rlhf"]["mean"], difference["mean"], *difference["ci95"]]
        assert [float(number) for number in row[1:]] == pytest.approx(numbers, rel=1e-3)
    for fingerprint in content["lineage"]["fingerprints"].values():
        assert f"`{fingerprint}`" in card.text
    assert "own files, fingerprint" in card.text
    assert "People have not compared the responses yet." in card.text


def test_a_license_is_named_if_one_is_set(exported: tuple[dict[str, Path], Path], tmp_path: Path) -> None:
    inputs, _ = exported
    config = CONFIG.model_copy(update={"export": ExportConfig(license="apache-2.0")})
    export_model(part_of(config, ExportStage), inputs, tmp_path)
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.license == "apache-2.0"
    assert "license is unknown" not in card.text


def test_the_published_card_follows_the_published_results(
    exported: tuple[dict[str, Path], Path], tmp_path: Path
) -> None:
    inputs, folder = exported
    copy_model(folder, tmp_path / "model")
    content = json.loads((inputs["results"] / "results.json").read_bytes())
    content["reward"]["rlhf"]["mean"] = 12.5
    (tmp_path / "results.json").write_text(json.dumps(content))
    (tmp_path / "config.json").write_text(CONFIG.model_dump_json())
    refresh_card(tmp_path)
    assert "| 12.5 |" in (tmp_path / "model" / "README.md").read_text()
    assert "| 12.5 |" not in (folder / "README.md").read_text()
