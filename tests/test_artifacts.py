"""Artifacts: the manifest decides, a wrong byte is named, a fingerprint holds exactly what a step depends on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlhf import artifacts
from rlhf.artifacts import (
    damage,
    external_fingerprint,
    fingerprint_of,
    read_manifest,
    record_files,
)
from rlhf.config import DataStage, RunConfig, SftStage, part_of
from rlhf.errors import InputError
from tests.artifacts import finish


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


def test_a_whole_artifact_has_no_damage(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "a")
    assert damage(folder) == []
    assert damage(folder, thorough=True) == []


def test_one_changed_byte_is_named(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "a")
    assert damage(folder) == []
    (folder / "model" / "weights").write_bytes(b"abce")
    [problem] = damage(folder)
    assert "model/weights" in problem
    assert "sha256" in problem


def test_a_changed_byte_behind_an_old_time_stamp_is_found_by_a_thorough_check(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "a")
    weights = folder / "model" / "weights"
    assert damage(folder) == []
    before = weights.stat()
    weights.write_bytes(b"abce")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(damage(folder, thorough=True)) == 1


def test_a_touched_but_equal_file_is_no_damage(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "a")
    os.utime(folder / "model" / "weights", ns=(1, 1))
    assert damage(folder) == []


def test_missing_and_shortened_files_are_named(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "a")
    (folder / "rows.jsonl").unlink()
    (folder / "model" / "weights").write_bytes(b"abc")
    assert sorted(damage(folder)) == [
        f"{folder}/model/weights: 3 bytes where the manifest says 4",
        f"{folder}/rows.jsonl: missing",
    ]


def test_without_a_manifest_nothing_is_finished(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "a")
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])
    assert read_manifest(folder) is None
    assert "missing or not whole" in damage(folder)[0]


def test_unfinished_work_is_no_part_of_an_artifact(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "a")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step-1").write_text("x")
    (folder / "log.txt").write_text("x")
    assert set(record_files(folder)) == {"model/weights", "rows.jsonl"}


def sft_fingerprint(config: RunConfig, inputs: dict[str, str] | None = None) -> str:
    return fingerprint_of("train_sft", part_of(config, SftStage), inputs or {"data": "d"}, "rlhf.stage")


def with_change(**parts: dict[str, object]) -> RunConfig:
    return RunConfig.model_validate(parts)


def test_a_fingerprint_changes_with_its_own_settings_and_inputs_only() -> None:
    base = sft_fingerprint(RunConfig())
    assert sft_fingerprint(with_change(sft={"learning_rate": 1e-4})) != base
    assert sft_fingerprint(RunConfig(seed=1)) != base
    assert sft_fingerprint(RunConfig(), {"data": "other"}) != base
    assert sft_fingerprint(with_change(ppo={"steps": 3})) == base
    assert sft_fingerprint(with_change(compute={"threads": 1})) == base


def test_where_an_input_lies_does_not_matter() -> None:
    assert sft_fingerprint(with_change(model={"path": "/a"})) == sft_fingerprint(with_change(model={"path": "/b"}))


def test_built_in_places_are_told_apart() -> None:
    def data_fingerprint(source: str) -> str:
        config = part_of(with_change(data={"source": source}), DataStage)
        return fingerprint_of("prepare_data", config, {}, "rlhf.stage")

    assert data_fingerprint("hub") != data_fingerprint("demonstration")
    assert data_fingerprint("/a") == data_fingerprint("/b")


def test_a_fingerprint_changes_with_an_indirectly_imported_source(monkeypatch: pytest.MonkeyPatch) -> None:
    before = artifacts.source_digest("rlhf.stage")
    artifacts.source_digest.cache_clear()
    real = artifacts._source
    monkeypatch.setattr(artifacts, "_source", lambda path: ("changed", ()) if path.name == "errors.py" else real(path))
    assert artifacts.source_digest("rlhf.stage") != before
    artifacts.source_digest.cache_clear()


def test_external_fingerprints_follow_content_and_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.jsonl").write_text("{}")
    assert external_fingerprint(tmp_path / "a") == external_fingerprint(tmp_path / "b")
    (tmp_path / "b" / "data.jsonl").rename(tmp_path / "b" / "other.jsonl")
    assert external_fingerprint(tmp_path / "a") != external_fingerprint(tmp_path / "b")
    with pytest.raises(InputError, match="no such file"):
        external_fingerprint(tmp_path / "c")
