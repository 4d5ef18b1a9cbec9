"""Stages on machines that share only S3: one machine reuses the artifacts and checkpoints of another."""

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
from tasks.run import Run
from tests.support.fake_launcher import FakeLauncher, final_states
from tests.support.s3_server import shared_workspace

pytestmark = pytest.mark.usefixtures("prefect_server")


class CheckpointingLauncher(FakeLauncher):
    """Writes a checkpoint if a stage fails, and records the checkpoint that a stage finds in `resumed_from`."""

    resumed_from: list[str]

    def run(self, job: launch.StageJob, callbacks: launch.StageCallbacks) -> None:
        """Replaces `launch_stage`."""
        checkpoint = job.output / "checkpoints" / "state"
        self.resumed_from = [checkpoint.read_text()] if checkpoint.exists() else []
        try:
            super().run(job, callbacks)
        except Exception:
            checkpoint.parent.mkdir()
            checkpoint.write_text("half done")
            raise
        shutil.rmtree(checkpoint.parent, ignore_errors=True)


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> CheckpointingLauncher:
    fake = CheckpointingLauncher()
    monkeypatch.setattr(execute, "launch_stage", fake.run)
    return fake


@pytest.fixture
def uri() -> Iterator[str]:
    with shared_workspace() as workspace:
        yield workspace


@pytest.fixture
def run_on(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Runs the two stages on the named machine and returns the names of their final states."""
    (tmp_path / "data.jsonl").write_text("{}\n")

    def call(machine: str) -> list[str]:
        monkeypatch.setenv("RLHF_CACHE", str(tmp_path / machine))
        open_s3_store.cache_clear()

        return final_states(lambda: Run.open(RunConfig(), uri), tmp_path / "data.jsonl")

    return call


def test_artifacts_of_one_machine_are_cached_on_another(
    launcher: CheckpointingLauncher, run_on: Callable[[str], list[str]], tmp_path: Path
) -> None:
    assert run_on("one") == ["Completed", "Completed"]
    assert run_on("two") == ["Cached", "Cached"]
    assert run_on("one") == ["Cached", "Cached"]
    assert launcher.started == ["first", "second"]
    assert not list((tmp_path / "two").glob("*/artifacts/*"))


def test_a_missing_artifact_is_rebuilt_from_downloaded_inputs(
    launcher: CheckpointingLauncher, run_on: Callable[[str], list[str]], uri: str, tmp_path: Path
) -> None:
    run_on("one")
    bucket = Bucket(uri)
    [manifest] = [name for name in bucket.sizes("artifacts/second") if name.endswith(MANIFEST)]
    bucket.remove([f"artifacts/second/{manifest}"])
    assert run_on("two") == ["Cached", "Completed"]  # the launcher asserts that the input exists
    assert launcher.started == ["first", "second", "second"]
    assert list((tmp_path / "two").glob("*/artifacts/first/*/out.txt"))


def test_another_machine_resumes_from_the_checkpoint_of_a_failed_stage(
    launcher: CheckpointingLauncher, run_on: Callable[[str], list[str]]
) -> None:
    launcher.failing = {"second": launch.StageFailedError("killed")}
    with pytest.raises(launch.StageFailedError):
        run_on("one")
    launcher.failing = {}
    assert run_on("two") == ["Cached", "Completed"]
    assert launcher.resumed_from == ["half done"]


def test_a_local_artifact_that_was_not_published_is_published_without_a_rebuild(
    launcher: CheckpointingLauncher, run_on: Callable[[str], list[str]], uri: str
) -> None:
    run_on("one")
    bucket = Bucket(uri)
    bucket.remove(f"artifacts/{name}" for name in bucket.sizes("artifacts"))
    assert run_on("one") == ["Completed", "Completed"]
    assert launcher.started == ["first", "second"]
    assert run_on("two") == ["Cached", "Cached"]
