"""Artifacts count by their manifest, changed bytes are named, fingerprints cover exactly what a stage depends on."""

from __future__ import annotations

import ast
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlhf
from rlhf.config import RunConfig, Settings
from rlhf.errors import UserError
from rlhf.profiles import load_profile
from rlhf.stage_config import (
    ComparisonStage,
    DataStage,
    LlmJudgeStage,
    ModelStage,
    ReportStage,
    RewardStage,
    SftStage,
    ToxicityStage,
    part_of,
)
from rlhf.storage import fingerprints
from rlhf.storage.artifacts import read_manifest, record_files, verify
from rlhf.storage.fingerprints import fingerprint_path, fingerprint_stage
from tasks import stages
from tasks.stage import Stage
from tests.support.artifacts import finish


def make_artifact(folder: Path) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_bytes(b"abcd")
    (folder / "rows.jsonl").write_text("{}\n")
    finish(folder, "train_sft", "f" * 16, metrics={"loss": 1.5}, seconds=2.0)
    return folder


def test_the_manifest_names_every_file_by_its_sha256(tmp_path: Path) -> None:
    manifest = read_manifest(make_artifact(tmp_path / "a"))
    assert manifest is not None
    assert set(manifest.files) == {"model/weights", "rows.jsonl"}
    # sha256sum of the four bytes "abcd"
    assert manifest.files["model/weights"].sha256 == "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589"


def test_an_intact_artifact_has_no_problems(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "a")
    assert verify(folder) == []
    assert verify(folder, thorough=True) == []


def test_one_changed_byte_is_named(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "a")
    assert verify(folder) == []
    (folder / "model" / "weights").write_bytes(b"abce")
    [problem] = verify(folder)
    assert "model/weights" in problem
    assert "sha256" in problem


def test_a_thorough_check_finds_a_changed_byte_under_an_old_time_stamp(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "a")
    weights = folder / "model" / "weights"
    assert verify(folder) == []
    before = weights.stat()
    weights.write_bytes(b"abce")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(verify(folder, thorough=True)) == 1


def test_a_touched_but_equal_file_is_intact(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "a")
    os.utime(folder / "model" / "weights", ns=(1, 1))
    assert verify(folder) == []


def test_missing_and_shortened_files_are_named(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "a")
    (folder / "rows.jsonl").unlink()
    (folder / "model" / "weights").write_bytes(b"abc")
    assert sorted(verify(folder)) == [
        f"{folder}/model/weights: 3 bytes, but the manifest says 4",
        f"{folder}/rows.jsonl: missing",
    ]


def test_without_a_manifest_nothing_is_finished(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "a")
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])
    assert read_manifest(folder) is None
    assert "missing or not intact" in verify(folder)[0]


def test_unfinished_files_are_not_part_of_an_artifact(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "a")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "stage-1").write_text("x")
    (folder / "log.txt").write_text("x")
    assert set(record_files(folder)) == {"model/weights", "rows.jsonl"}


def sft_fingerprint(config: RunConfig, inputs: dict[str, str] | None = None) -> str:
    return fingerprint_stage("train_sft", part_of(config, SftStage), inputs or {"data": "d"}, "rlhf.runtime.stage")


def with_change(**parts: dict[str, object]) -> RunConfig:
    return RunConfig.model_validate(parts)


def test_a_fingerprint_changes_only_with_its_own_settings_and_inputs() -> None:
    base = sft_fingerprint(RunConfig())
    assert sft_fingerprint(with_change(sft={"learning_rate": 1e-4})) != base
    assert sft_fingerprint(RunConfig(seed=1)) != base
    assert sft_fingerprint(RunConfig(), {"data": "other"}) != base
    assert sft_fingerprint(with_change(ppo={"steps": 3})) == base
    assert sft_fingerprint(with_change(compute={"threads": 1})) == base


def test_the_path_of_an_input_does_not_matter() -> None:
    assert sft_fingerprint(with_change(model={"path": "/a"})) == sft_fingerprint(with_change(model={"path": "/b"}))


def test_built_in_sources_have_different_fingerprints() -> None:
    def data_fingerprint(source: str) -> str:
        config = part_of(with_change(data={"source": source}), DataStage)
        return fingerprint_stage("prepare_data", config, {}, "rlhf.runtime.stage")

    assert data_fingerprint("hub") != data_fingerprint("synthetic")
    assert data_fingerprint("/a") == data_fingerprint("/b")


REQUIRED = (
    "judge.llm.path=x",
    "toxicity.classifier=detoxify",
    "toxicity.checkpoint=x",
    "toxicity.checkpoint_config=x",
    f"toxicity.checkpoint_sha256={'ab' * 32}",
)
"""Settings without which a stage, or another setting, is not valid."""


@pytest.mark.parametrize(
    ("stage", "setting"),
    [
        (ComparisonStage, "evaluation.questions"),
        (DataStage, "data.source"),
        (LlmJudgeStage, "judge.llm.path"),
        (ModelStage, "model.path"),
        (ReportStage, "data.source"),
        (ReportStage, "evaluation.questions"),
        (ReportStage, "judge.llm.path"),
        (ReportStage, "judge.model.path"),
        (ReportStage, "model.path"),
        (ReportStage, "reward.path"),
        (ReportStage, "toxicity.checkpoint"),
        (ReportStage, "toxicity.second_opinion"),
        (RewardStage, "reward.path"),
        (ToxicityStage, "toxicity.checkpoint_config"),
        (ToxicityStage, "toxicity.prompts"),
        (ToxicityStage, "toxicity.second_opinion"),
    ],
)
def test_no_stage_has_a_path_in_its_fingerprint(stage: type[Settings], setting: str) -> None:
    """Not the path counts but, as an input, its content."""

    def fingerprint(folder: str, inputs: dict[str, str]) -> str:
        config = load_profile("quickstart", [*REQUIRED, f"{setting}={folder}/file"])
        return fingerprint_stage("any", part_of(config, stage), inputs, "rlhf.runtime.stage")

    assert fingerprint("/a", {"file": "1"}) == fingerprint("/b", {"file": "1"})
    assert fingerprint("/a", {"file": "1"}) != fingerprint("/a", {"file": "2"})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of this package from which fingerprints are computed, so that a test can change it."""
    copy = tmp_path / "rlhf"
    shutil.copytree(Path(rlhf.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(rlhf, "__file__", str(copy / "__init__.py"))
    forget_sources()
    yield copy
    forget_sources()


def forget_sources() -> None:
    fingerprints.source_digest.cache_clear()
    fingerprints._code.cache_clear()


def stage_digests() -> dict[str, str]:
    forget_sources()
    every_stage = [value for value in vars(stages).values() if isinstance(value, Stage)]
    assert len(every_stage) == 15
    return {stage.name: fingerprints.source_digest(stage.module) for stage in every_stage}


def edit(path: Path, old: str, new: str) -> None:
    source = path.read_text(encoding="utf-8")
    assert old in source
    path.write_text(source.replace(old, new), encoding="utf-8")


def test_docstrings_comments_and_layout_of_any_module_change_no_fingerprint(package: Path) -> None:
    before = stage_digests()
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            match node:
                case ast.Expr(value=ast.Constant(value=str()) as docstring):
                    docstring.value = "Reworded."
        path.write_text(f"# a comment\n{ast.unparse(tree)}\n", encoding="utf-8")
    assert stage_digests() == before


def test_a_change_of_the_ppo_loss_changes_only_train_ppo(package: Path) -> None:
    before = stage_digests()
    edit(package / "training" / "ppo" / "losses.py", "0.5 *", "0.25 *")
    after = stage_digests()
    assert {name for name in before if before[name] != after[name]} == {"train_ppo"}


def test_a_change_in_a_shared_module_changes_every_stage(package: Path) -> None:
    before = stage_digests()
    edit(package / "errors.py", "str(error)", "repr(error)")
    assert not set(before.values()) & set(stage_digests().values())


def test_an_unknown_module_has_no_fingerprint(package: Path) -> None:
    with pytest.raises(LookupError, match=r"rlhf\.train_sfd: no such module"):
        fingerprints.source_digest("rlhf.train_sfd")
    (package / "errors.py").unlink()
    forget_sources()
    with pytest.raises(LookupError, match=r"rlhf\.errors: no such module"):
        fingerprints.source_digest("rlhf.stages.train_sft")


def test_a_fingerprint_changes_with_the_minor_version_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    before = stage_digests()
    monkeypatch.setattr(sys, "version_info", (3, 99, 1))
    assert not set(before.values()) & set(stage_digests().values())
    forget_sources()


def test_fingerprints_of_paths_follow_content_and_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.jsonl").write_text("{}")
    assert fingerprint_path(tmp_path / "a") == fingerprint_path(tmp_path / "b")
    (tmp_path / "b" / "data.jsonl").rename(tmp_path / "b" / "other.jsonl")
    assert fingerprint_path(tmp_path / "a") != fingerprint_path(tmp_path / "b")
    with pytest.raises(UserError, match="no such file"):
        fingerprint_path(tmp_path / "c")
