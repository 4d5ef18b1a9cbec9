"""Runs that need the same artifact at the same time: one makes it, the others wait for it, whoever is killed."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlhf.storage.artifacts import STAGE_LOCK, Store, verify
from rlhf.storage.files import locked
from rlhf.storage.s3 import Bucket
from rlhf.storage.s3_store import open_store
from tasks import execute
from tasks.execute import execute_locally
from tasks.launch import StageCallbacks, StageFailedError, StageJob, stop_stages_on_error
from tests.support.artifacts import finish
from tests.support.racing_run import FINGERPRINT, STAGE, racing_job, start_run
from tests.support.s3_server import shared_workspace

WAITS = f"{STAGE} waits for another run that makes the same artifact"


@pytest.fixture
def control(tmp_path: Path) -> Path:
    (tmp_path / "control").mkdir()
    return tmp_path / "control"


@pytest.fixture
def start(control: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a run in a workspace; kills it after the test if it has not ended."""
    processes: list[subprocess.Popen[str]] = []

    def call(workspace: Path | str, **environment: str) -> subprocess.Popen[str]:
        processes.append(start_run(control, str(workspace), **environment))
        return processes[-1]

    yield call
    for process in processes:
        process.kill()
        process.communicate()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def starts(control: Path) -> int:
    """How often the stage has been started so far."""
    return len(list(control.glob("started-*")))


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_second_run_waits_for_the_stage_of_the_first_and_uses_its_artifact(
    start: Callable[..., subprocess.Popen[str]], control: Path, tmp_path: Path
) -> None:
    first = start(tmp_path / "runs")
    wait_until(lambda: starts(control) == 1)
    second = start(tmp_path / "runs")
    assert next_line(second) == WAITS
    (control / "go").touch()
    assert [next_line(first), next_line(second)] == ["done", "done"]
    assert [first.wait(), second.wait()] == [0, 0]
    assert starts(control) == 1
    folder = Store(tmp_path / "runs" / "artifacts").folder(STAGE, FINGERPRINT)
    assert verify(folder, thorough=True) == []
    assert [path.name for path in folder.parent.iterdir()] == [FINGERPRINT]  # no lock is left


def test_a_killed_run_blocks_nobody_and_ctrl_c_ends_a_wait(
    start: Callable[..., subprocess.Popen[str]], control: Path, tmp_path: Path
) -> None:
    first = start(tmp_path / "runs")
    wait_until(lambda: starts(control) == 1)
    second, third = start(tmp_path / "runs"), start(tmp_path / "runs")
    assert [next_line(second), next_line(third)] == [WAITS, WAITS]
    third.send_signal(signal.SIGINT)
    assert third.wait(10) != 0
    first.kill()
    wait_until(lambda: starts(control) == 2)
    (control / "go").touch()
    assert next_line(second) == "done"
    assert verify(Store(tmp_path / "runs" / "artifacts").folder(STAGE, FINGERPRINT), thorough=True) == []


def test_two_machines_that_share_s3_make_an_artifact_once(
    start: Callable[..., subprocess.Popen[str]], control: Path, tmp_path: Path
) -> None:
    caches = [{"RLHF_CACHE": str(tmp_path / name)} for name in ("one", "two")]
    with shared_workspace() as uri:
        killed = start(uri, **caches[0])
        wait_until(lambda: starts(control) == 1)
        killed.kill()
        first = start(uri, **caches[0])  # the lock that the killed run left in S3 is its own machine's
        wait_until(lambda: starts(control) == 2)
        second = start(uri, **caches[1])
        assert next_line(second) == WAITS
        (control / "go").touch()
        assert [next_line(first), next_line(second)] == ["done", "done"]
        assert starts(control) == 2
        assert not list((tmp_path / "two").glob("*/artifacts/*/*"))  # nothing was made there
        assert open_store(uri).verify(STAGE, FINGERPRINT) == []
        assert Bucket(uri).sizes("leases") == {}


class Notes:
    """Callbacks that keep the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.callbacks = StageCallbacks(lambda _progress: None, self.notes.append)


def test_a_stage_that_outlived_its_run_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may finish the artifact; then nothing is started."""
    monkeypatch.setattr(execute, "launch_stage", None)
    job, notes = racing_job(str(tmp_path / "runs")), Notes()
    job.output.mkdir(parents=True)
    with locked(job.output / STAGE_LOCK):
        thread = threading.Thread(target=execute_locally, args=(job, notes.callbacks))
        thread.start()
        wait_until(lambda: notes.notes == [WAITS])
        (job.output / "out.txt").write_text("made by the other")
        finish(job.output, STAGE, FINGERPRINT)
    thread.join(30)
    assert not thread.is_alive()
    assert verify(job.output) == []


def test_a_wait_ends_when_the_run_is_stopped(tmp_path: Path) -> None:
    """Also in a thread, which no signal reaches."""
    job, notes = racing_job(str(tmp_path / "runs")), Notes()
    errors: list[BaseException] = []

    def execute_in_thread(job: StageJob) -> None:
        try:
            execute_locally(job, notes.callbacks)
        except StageFailedError as error:
            errors.append(error)

    thread = threading.Thread(target=execute_in_thread, args=(job,))
    job.output.mkdir(parents=True)
    with locked(job.output / STAGE_LOCK):
        thread.start()
        wait_until(lambda: notes.notes == [WAITS])
        with pytest.raises(ZeroDivisionError), stop_stages_on_error():
            raise ZeroDivisionError
        thread.join(30)
        assert not thread.is_alive()
    assert [str(error) for error in errors] == ["the run is being stopped"]
    with stop_stages_on_error():  # later tests may start stages again
        pass
