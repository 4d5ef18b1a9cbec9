"""The generated reference pages: current, complete, and with a description of everything."""

from __future__ import annotations

import re

import pytest

from flows.cli.reference import pages
from rlhf.config import LlmJudgeConfig, RunConfig, SyntheticModel, flatten
from tests.support.paths import ROOT


@pytest.mark.parametrize("name", ["settings.md", "cli.md"])
def test_the_page_is_current(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == pages()[name], "run `make docs`"


def test_every_setting_is_described_once() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| .+ \| (.+) \|$", pages()["settings.md"], flags=re.MULTILINE)
    synthetic = {f"model.synthetic.{name}" for name in SyntheticModel.model_fields}
    llm = {f"judge.llm.{name}" for name in LlmJudgeConfig.model_fields}
    assert sorted(name for name, _ in rows) == sorted({*flatten(RunConfig().model_dump())} | synthetic | llm)
    assert all(description.strip() for _, description in rows)


def test_defaults_and_bounds_are_those_of_the_settings() -> None:
    page = pages()["settings.md"]
    assert "| `ppo.learning_rate` | number | `8e-06` | > 0 |" in page
    assert "| `toxicity.sampling.max_new_tokens` | integer | `20` | >= 1, <= 1,000,000 |" in page
    assert "| `ppo.kl_target` | number or `null` | `6.0` | > 0 |" in page
    assert "| `ppo.unfrozen_blocks` | integer or `all` | `2` |  |" in page
    assert '| `data.source` | text | `"hub"` |  |' in page
    assert "| `ppo.adam_betas` | list: number, number |" in page
    assert "- `trainer: trlx` runs on one machine" in page
    assert "| `judge.model` | settings as in `model`, or `null` | `null` |" in page
    assert "| `judge.training` | settings as in `sft`, or `null` | `null` |" in page


def test_every_option_is_described() -> None:
    rows = re.findall(r"^\| `((?:--)?[\w-]+)[^|]*` \| ([^|]*) \| (.*) \|$", pages()["cli.md"], flags=re.MULTILINE)
    assert {"PROFILE", "--set", "--name", "--annotator", "--gpu-pool", "--yes"} <= {name for name, _, _ in rows}
    assert all(description for _, _, description in rows)
