"""Results in a workspace may come from anybody: a run opens, or the answer is one line.  Runs publish one by one."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import UserError
from rlhf.runs.published import find_run, publishing, read_labels, rebuild_report, write_with_stage_times
from rlhf.storage.files import copy_folder
from tests.support.two_runs import publish


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one finished run, `small`."""
    workspace = tmp_path_factory.mktemp("runs")
    publish(workspace, "small", effect=1.0, steps=2)
    return workspace


@pytest.fixture
def change(published: Path) -> Iterator[Callable[[Callable[[dict[str, Any]], None]], Path]]:
    """Changes the published results for one test; returns the workspace."""
    path = published / "small" / "results.json"
    original = path.read_text()

    def call(edit: Callable[[dict[str, Any]], None]) -> Path:
        content = json.loads(original)
        edit(content)
        path.write_text(json.dumps(content))
        return published

    yield call
    path.write_text(original)


def test_results_that_name_no_stage_are_one_line(change: Callable[..., Path]) -> None:
    workspace = change(lambda content: content.update(stages=[]))
    with pytest.raises(UserError, match=r"names no aggregate_results or .*`rlhf run PROFILE --name small` rebuilds it"):
        find_run(str(workspace), None)
    workspace = change(lambda content: content["lineage"].update(fingerprints={}))
    with pytest.raises(UserError, match="names no aggregate_results or export_labeling_manifest"):
        find_run(str(workspace), "small")


def test_a_fingerprint_in_results_is_no_way_out_of_the_workspace(change: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    workspace = change(lambda content: content["stages"][0].update(fingerprint=str(tmp_path)))
    with pytest.raises(UserError, match="is not the plain name of a folder"):
        rebuild_report(find_run(str(workspace), "small"))


def test_results_that_are_no_ordinary_file_are_named(change: Callable[..., Path], tmp_path: Path) -> None:
    change(lambda _content: None)
    (tmp_path / "small").mkdir()
    os.mkfifo(tmp_path / "small" / "results.json")
    with pytest.raises(UserError, match=r"results\.json: not an ordinary file"):
        find_run(str(tmp_path), None)
    os.mkfifo(tmp_path / "small" / "human_evaluation.json")
    with pytest.raises(UserError, match=r"human_evaluation\.json: not an ordinary file"):
        read_labels(tmp_path / "small", "a" * 16)
    assert read_labels(tmp_path, "a" * 16) is None


def test_an_artifact_of_another_version_is_one_line(change: Callable[..., Path]) -> None:
    workspace = change(lambda _content: None)
    run = find_run(str(workspace), "small")
    artifact = workspace / "artifacts" / "aggregate_results" / "small"
    intact = (artifact / "results.json").read_bytes()
    (artifact / "results.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="damaged or written by another version") as error:
        write_with_stage_times(artifact, run.results.stages, run.folder / "results.json", run.folder / "report.html")
    (artifact / "results.json").write_bytes(intact)
    assert "\n" not in str(error.value)


def test_of_runs_that_publish_at_once_each_publishes_whole(tmp_path: Path) -> None:
    """Model folder and card always come from the same run."""
    run, problems = tmp_path / "small", []
    run.mkdir()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for file in ("model.safetensors", "config.json"):
            (tmp_path / name / file).write_text(name)

    def publish_as(name: str) -> None:
        for _ in range(10):
            with publishing(run):
                copy_folder(tmp_path / name, run / "model")
                (run / "model" / "README.md").write_text(name)
                contents = {path.read_text() for path in (run / "model").iterdir()}
                if contents != {name}:
                    problems.append(contents)

    threads = [threading.Thread(target=publish_as, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert sorted(path.name for path in (run / "model").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "small", "two"]  # no lock is left
