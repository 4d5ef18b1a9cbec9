"""Stages as cached tasks: unchanged stages are not run again, damaged or missing artifacts are rebuilt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import RunConfig
from rlhf.errors import UserError
from rlhf.storage.artifacts import Store
from tasks import execute, launch
from tasks.run import Run
from tests.support.fake_launcher import FakeLauncher, final_states

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> FakeLauncher:
    fake = FakeLauncher()
    monkeypatch.setattr(execute, "launch_stage", fake.run)
    return fake


@pytest.fixture
def run_two(tmp_path: Path) -> Callable[..., list[str]]:
    """Runs the two stages in a flow, with the given settings, and returns the names of their final states."""

    def call(**parts: dict[str, object]) -> list[str]:
        return final_states(lambda: Run(RunConfig.model_validate(parts), tmp_path), tmp_path / "data.jsonl")

    (tmp_path / "data.jsonl").write_text("{}\n")
    return call


def test_a_second_run_is_cached_and_starts_nothing(launcher: FakeLauncher, run_two: Callable[..., list[str]]) -> None:
    assert run_two() == ["Completed", "Completed"]
    assert run_two() == ["Cached", "Cached"]
    assert launcher.started == ["first", "second"]


def test_only_stages_that_depend_on_a_changed_setting_run_again(
    launcher: FakeLauncher, run_two: Callable[..., list[str]]
) -> None:
    run_two()
    assert run_two(sft={"learning_rate": 1e-3}) == ["Cached", "Completed"]
    assert launcher.started == ["first", "second", "second"]


@pytest.mark.usefixtures("launcher")
def test_a_changed_input_file_runs_everything_again(run_two: Callable[..., list[str]], tmp_path: Path) -> None:
    run_two()
    (tmp_path / "data.jsonl").write_text("{ }\n")
    assert run_two() == ["Completed", "Completed"]


def artifact_file(tmp_path: Path, stage: str) -> Path:
    [folder] = (tmp_path / "artifacts" / stage).iterdir()
    assert folder in Store(tmp_path / "artifacts").artifacts()
    return folder / "out.txt"


def test_a_damaged_artifact_is_rebuilt_and_then_cached(
    launcher: FakeLauncher, run_two: Callable[..., list[str]], tmp_path: Path
) -> None:
    run_two()
    damaged = artifact_file(tmp_path, "first")
    intact = damaged.read_bytes()
    damaged.write_bytes(b"?" + intact[1:])
    assert run_two() == ["Completed", "Cached"]
    assert damaged.read_bytes() == intact
    assert run_two() == ["Cached", "Cached"]
    assert launcher.started == ["first", "second", "first"]


@pytest.mark.usefixtures("launcher")
def test_a_deleted_artifact_is_rebuilt(run_two: Callable[..., list[str]], tmp_path: Path) -> None:
    run_two()
    artifact_file(tmp_path, "second").unlink()
    assert run_two() == ["Cached", "Completed"]
    assert artifact_file(tmp_path, "second").exists()


def test_an_intact_artifact_without_a_record_is_not_rebuilt(
    launcher: FakeLauncher, run_two: Callable[..., list[str]], tmp_path: Path
) -> None:
    run_two()
    for record in (tmp_path / "records").iterdir():
        record.unlink()
    assert run_two() == ["Completed", "Completed"]
    assert launcher.started == ["first", "second"]


def test_a_failed_stage_keeps_its_error_and_later_stages_do_not_start(
    launcher: FakeLauncher, run_two: Callable[..., list[str]]
) -> None:
    launcher.failing = {"first": UserError("data.jsonl:1: not valid JSON")}
    with pytest.raises(UserError, match=r"data\.jsonl:1: not valid JSON"):
        run_two()
    assert launcher.started == ["first"]
    launcher.failing = {}
    assert run_two() == ["Completed", "Completed"]


def test_an_interrupted_stage_finds_its_checkpoints(
    launcher: FakeLauncher, run_two: Callable[..., list[str]], tmp_path: Path
) -> None:
    launcher.failing = {"first": launch.StageFailedError("killed")}
    with pytest.raises(launch.StageFailedError):
        run_two()
    [folder] = (tmp_path / "artifacts" / "first").iterdir()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step-1").write_text("half done")
    launcher.failing = {}
    run_two()
    assert (folder / "checkpoints" / "step-1").exists()


@pytest.mark.usefixtures("launcher")
def test_a_record_is_json_under_stage_and_fingerprint(run_two: Callable[..., list[str]], tmp_path: Path) -> None:
    run_two()
    paths = sorted((tmp_path / "records").iterdir())
    assert [path.name for path in paths] == [
        f"{stage}-{artifact_file(tmp_path, stage).parent.name}" for stage in ("first", "second")
    ]
    records = [json.loads(path.read_text()) for path in paths]
    assert [record["metadata"]["serializer"]["type"] for record in records] == ["json", "json"]
    assert json.loads(records[0]["result"])["data"]["metrics"] == {"loss": 0.5}
