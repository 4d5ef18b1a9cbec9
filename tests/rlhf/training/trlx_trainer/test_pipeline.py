"""The complete workflow with `trainer: trlx`, as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.storage.artifacts import read_manifest
from rlhf.storage.files import read_jsonl
from tests.support.cli import SMALL, CommandLine
from tests.support.trlx_env import needs_trlx


@pytest.mark.slow
@needs_trlx
@pytest.mark.timeout(1800)
def test_a_toy_gptj_goes_through_the_pipeline(tmp_path: Path) -> None:
    command = CommandLine(tmp_path / "runs", tmp_path / "home")
    settings = {**SMALL, "trainer": "trlx", "data.test_prompts": 100, "data.synthetic_pairs": 800}
    overrides = [f"--set={name}={value}" for name, value in settings.items()]
    # two more starts of heavy libraries than other runs have
    outcome = command("run", "quickstart", "--workspace", str(command.workspace), *overrides, timeout=1700)
    assert outcome.code == 0, outcome.error
    ppo = command.artifact("train_ppo")
    rows = read_jsonl(ppo / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-9)
    assert all(isinstance(row["score"], float) and isinstance(row["reward"], float) for row in rows)
    responses = [read_jsonl(folder / "responses.jsonl") for folder in (command.workspace / "artifacts").glob("gen*/*")]
    assert [len(rows) for rows in responses] == [100, 100]
    for step in ("train_sft", "train_ppo"):
        manifest = read_manifest(command.artifact(step))
        assert manifest is not None
        assert manifest.versions["transformers"] == "4.41.2"
        assert "trlx" in manifest.versions
    reward = read_manifest(command.artifact("train_reward"))
    assert reward is not None
    assert reward.versions["transformers"].startswith("5.")
