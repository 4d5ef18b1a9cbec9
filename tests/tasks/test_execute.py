"""Stages on machines that share nothing but S3: what one finished the other finds, and goes on from what it left."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlhf.config import RunConfig
from rlhf.storage.artifacts import MANIFEST
from rlhf.storage.s3 import Bucket
from rlhf.storage.s3_store import open_s3_store
from tasks import execute, launch
from tasks.stage import Run
from tests.support.s3_server import shared_workspace
from tests.tasks.test_stage import Stages, final_states

pytestmark = pytest.mark.usefixtures("prefect_server")


class Left(Stages):
    """Stages that note what they find, and leave a checkpoint where they fail."""

    found: list[str]

    def run(self, job: launch.StageJob, listener: launch.StageCallbacks) -> None:
        """Stand in for the launcher."""
        checkpoint = job.output / "checkpoints" / "state"
        self.found = [checkpoint.read_text()] if checkpoint.exists() else []
        try:
            super().run(job, listener)
        except Exception:
            checkpoint.parent.mkdir()
            checkpoint.write_text("half way")
            raise
        shutil.rmtree(checkpoint.parent, ignore_errors=True)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Left:
    fake = Left()
    monkeypatch.setattr(execute, "launch_stage", fake.run)
    return fake


@pytest.fixture
def uri() -> Iterator[str]:
    with shared_workspace() as made:
        yield made


@pytest.fixture
def run_on(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Runs the two stages on a machine by its name and returns the names of their final states."""
    (tmp_path / "data.jsonl").write_text("{}\n")

    def call(machine: str) -> list[str]:
        monkeypatch.setenv("RLHF_CACHE", str(tmp_path / machine))
        open_s3_store.cache_clear()

        return final_states(lambda: Run.at(RunConfig(), uri), tmp_path / "data.jsonl")

    return call


def test_what_one_machine_made_is_cached_on_another(
    stages: Left, run_on: Callable[[str], list[str]], tmp_path: Path
) -> None:
    assert run_on("here") == ["Completed", "Completed"]
    assert run_on("there") == ["Cached", "Cached"]
    assert run_on("here") == ["Cached", "Cached"]
    assert stages.started == ["first", "second"]
    assert not list((tmp_path / "there").glob("*/artifacts/*"))


def test_what_is_missing_is_made_from_inputs_that_are_fetched(
    stages: Left, run_on: Callable[[str], list[str]], uri: str, tmp_path: Path
) -> None:
    run_on("here")
    bucket = Bucket(uri)
    [manifest] = [name for name in bucket.sizes("artifacts/second") if name.endswith(MANIFEST)]
    bucket.remove([f"artifacts/second/{manifest}"])
    assert run_on("there") == ["Cached", "Completed"]  # the stage asserts that its input is there
    assert stages.started == ["first", "second", "second"]
    assert list((tmp_path / "there").glob("*/artifacts/first/*/out.txt"))


def test_another_machine_goes_on_from_the_checkpoint_of_a_stage_that_failed(
    stages: Left, run_on: Callable[[str], list[str]]
) -> None:
    stages.failing = {"second": launch.StageFailedError("killed")}
    with pytest.raises(launch.StageFailedError):
        run_on("here")
    stages.failing = {}
    assert run_on("there") == ["Cached", "Completed"]
    assert stages.found == ["half way"]


def test_a_copy_that_was_not_published_is_not_made_again(
    stages: Left, run_on: Callable[[str], list[str]], uri: str
) -> None:
    run_on("here")
    bucket = Bucket(uri)
    bucket.remove(f"artifacts/{name}" for name in bucket.sizes("artifacts"))
    assert run_on("here") == ["Completed", "Completed"]
    assert stages.started == ["first", "second"]
    assert run_on("there") == ["Cached", "Cached"]
