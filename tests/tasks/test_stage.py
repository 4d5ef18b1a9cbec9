"""Stages as cached tasks: what did not change is not run again, what is damaged or gone is made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect import flow

from rlhf.config import RunConfig
from rlhf.errors import UserError
from rlhf.stage_config import DataStage, SftStage
from rlhf.storage.artifacts import Store
from tasks import execute, launch
from tasks.stage import Run, Stage
from tests.support.artifacts import finish

first = Stage("first", "rlhf.config", DataStage, accelerator=False)
second = Stage("second", "rlhf.config", SftStage)

pytestmark = pytest.mark.usefixtures("prefect_server")


class Stages:
    """Stands in for the launcher: remembers what was started and finishes it at once."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.failing: dict[str, Exception] = {}

    def run(self, job: launch.StageJob, _listener: launch.StageCallbacks) -> None:
        request, output = job.request, job.output
        output.mkdir(parents=True, exist_ok=True)
        self.started.append(request.stage)
        if request.stage in self.failing:
            raise self.failing[request.stage]
        for given in request.inputs.values():
            assert given.path.exists(), f"{request.stage} was started before its input was there"
        (output / "out.txt").write_text(json.dumps(request.config))
        finish(output, request.stage, request.fingerprint, config=request.config, metrics={"loss": 0.5})


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    fake = Stages()
    monkeypatch.setattr(execute, "launch_stage", fake.run)
    return fake


def final_states(make_run: Callable[[], Run], source: Path) -> list[str]:
    """Run the two stages in a flow; the names of their final states."""

    @flow
    def two_steps() -> list[str]:
        run = make_run()
        one = first.submit(run, source=source)
        two = second.submit(run, data=one)
        for stage in (one, two):
            stage.future.wait()
        for stage in (one, two):
            if stage.future.state.is_failed():
                stage.future.result()
        return [str(stage.future.state.name) for stage in (one, two)]

    return two_steps()


@pytest.fixture
def run_two(tmp_path: Path) -> Callable[..., list[str]]:
    """Runs the two stages in a flow and returns the names of their final states."""

    def call(**parts: dict[str, object]) -> list[str]:
        return final_states(lambda: Run(RunConfig.model_validate(parts), tmp_path), tmp_path / "data.jsonl")

    (tmp_path / "data.jsonl").write_text("{}\n")
    return call


def test_a_second_run_is_cached_and_starts_nothing(stages: Stages, run_two: Callable[..., list[str]]) -> None:
    assert run_two() == ["Completed", "Completed"]
    assert run_two() == ["Cached", "Cached"]
    assert stages.started == ["first", "second"]


def test_only_what_depends_on_a_changed_setting_runs_again(stages: Stages, run_two: Callable[..., list[str]]) -> None:
    run_two()
    assert run_two(sft={"learning_rate": 1e-3}) == ["Cached", "Completed"]
    assert stages.started == ["first", "second", "second"]


@pytest.mark.usefixtures("stages")
def test_a_changed_input_file_runs_everything_again(run_two: Callable[..., list[str]], tmp_path: Path) -> None:
    run_two()
    (tmp_path / "data.jsonl").write_text("{ }\n")
    assert run_two() == ["Completed", "Completed"]


def artifact_file(tmp_path: Path, stage: str) -> Path:
    [folder] = (tmp_path / "artifacts" / stage).iterdir()
    assert folder in Store(tmp_path / "artifacts").artifacts()
    return folder / "out.txt"


def test_a_damaged_artifact_is_made_again_and_then_cached(
    stages: Stages, run_two: Callable[..., list[str]], tmp_path: Path
) -> None:
    run_two()
    damaged = artifact_file(tmp_path, "first")
    whole = damaged.read_bytes()
    damaged.write_bytes(b"?" + whole[1:])
    assert run_two() == ["Completed", "Cached"]
    assert damaged.read_bytes() == whole
    assert run_two() == ["Cached", "Cached"]
    assert stages.started == ["first", "second", "first"]


@pytest.mark.usefixtures("stages")
def test_a_deleted_artifact_is_made_again(run_two: Callable[..., list[str]], tmp_path: Path) -> None:
    run_two()
    artifact_file(tmp_path, "second").unlink()
    assert run_two() == ["Cached", "Completed"]
    assert artifact_file(tmp_path, "second").exists()


def test_a_whole_artifact_without_a_record_is_not_made_again(
    stages: Stages, run_two: Callable[..., list[str]], tmp_path: Path
) -> None:
    run_two()
    for record in (tmp_path / "records").iterdir():
        record.unlink()
    assert run_two() == ["Completed", "Completed"]
    assert stages.started == ["first", "second"]


def test_a_failed_step_keeps_its_error_and_stops_what_follows(
    stages: Stages, run_two: Callable[..., list[str]]
) -> None:
    stages.failing = {"first": UserError("data.jsonl:1: mend this")}
    with pytest.raises(UserError, match="mend this"):
        run_two()
    assert stages.started == ["first"]
    stages.failing = {}
    assert run_two() == ["Completed", "Completed"]


def test_an_unfinished_stage_finds_what_it_left(
    stages: Stages, run_two: Callable[..., list[str]], tmp_path: Path
) -> None:
    stages.failing = {"first": launch.StageFailedError("killed")}
    with pytest.raises(launch.StageFailedError):
        run_two()
    [folder] = (tmp_path / "artifacts" / "first").iterdir()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "stage-1").write_text("half way")
    stages.failing = {}
    run_two()
    assert (folder / "checkpoints" / "stage-1").exists()


@pytest.mark.usefixtures("stages")
def test_the_stored_record_is_json_and_holds_no_model(run_two: Callable[..., list[str]], tmp_path: Path) -> None:
    run_two()
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "records").iterdir())]
    assert [record["metadata"]["serializer"]["type"] for record in records] == ["json", "json"]
    assert json.loads(records[0]["result"])["data"]["metrics"] == {"loss": 0.5}
