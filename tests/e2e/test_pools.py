"""The workflow on a server with two workers: where steps run, what Retry, Cancel and killed processes do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import IntervalSchedule

from rlhf.storage.fingerprints import digest
from tests.support.cli import CommandLine
from tests.support.paths import ROOT
from tests.support.site import CPU_STEPS, METRICS, PATIENCE, Site, is_final, site, untimed, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser

OUTPUT = ROOT / "test-output"
"""Screenshots of the Prefect UI, for a person to look at."""
LOST_SECONDS = 120
"""Within which a run whose process and worker are gone is marked Crashed."""
TIMED = ("results.json", "report.html", "README.md")
"""Files that tell how long the steps took."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site on which the shrunk quickstart has run once."""
    with site(tmp_path_factory.mktemp("site")) as made:
        state = made.ended(made.begin())
        assert state.is_completed(), state
        yield made


@pytest.fixture(scope="module")
def whole(running: Site) -> dict[str, str]:
    """What an undisturbed run made."""
    return contents(running.workspace)


def contents(workspace: Path) -> dict[str, str]:
    """sha256 of every file of every finished artifact; of metrics without the seconds that they tell."""
    hashes: dict[str, str] = {}
    for path in sorted(workspace.glob("artifacts/*/*/manifest.json")):
        for name, file in json.loads(path.read_bytes())["files"].items():
            rows = untimed((path.parent / name).read_bytes()) if name == METRICS else None
            hashes[f"{path.parent.relative_to(workspace)}/{name}"] = digest(rows) if rows else file["sha256"]
    return hashes


def assert_same(found: dict[str, str], expected: dict[str, str]) -> None:
    """The same files with the same bytes, but for the seconds that they tell."""
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name] and not name.endswith(TIMED)] == []


def test_gpu_steps_run_on_their_pool_one_at_a_time_and_end_in_the_bytes_of_a_local_run(
    running: Site, whole: dict[str, str], local_run: CommandLine
) -> None:
    assert {worker for module, worker in running.seen if module in CPU_STEPS} == {"worker-cpu"}
    assert {worker for module, worker in running.seen if module not in CPU_STEPS} == {"worker-p4d"}
    assert len({module for module, _ in running.seen}) >= 7
    assert running.most_gpu_jobs == 1
    assert_same(contents(local_run.workspace), whole)


def test_a_full_disk_fails_the_run_and_a_click_on_retry_finishes_it(running: Site, browser: Browser) -> None:
    disk = running.workspace / "artifacts" / "export_labeling_manifest"
    shutil.rmtree(disk)
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs; run the tests as root")
    try:
        run = running.begin()
        assert running.ended(run).is_failed()
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(running.page_of(run))
        page.get_by_text("No space left on device").first.scroll_into_view_if_needed()
        page.screenshot(path=OUTPUT / "failed.png")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    logs = {path: path.stat().st_mtime_ns for path in running.workspace.rglob("log.txt")}
    time.sleep(8)  # the worker first learns that the run has ended
    page.get_by_role("button", name="Retry").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry").click()
    wait_for(lambda: not is_final(running.run(run)), 60, "the click to count")
    assert running.ended(run).is_completed()
    page.get_by_text("Completed", exact=True).first.wait_for()
    page.screenshot(path=OUTPUT / "retried.png")
    states = running.last_task_states(run)
    ran = {name for name, state in states.items() if state != "Cached"}
    assert ran == {"export_labeling_manifest"}, states  # what depends on it was finished with the same bytes before
    assert {path: path.stat().st_mtime_ns for path in logs} == logs  # no earlier step's process wrote a line
    page.close()


def kill_stage(running: Site, _run: UUID) -> None:
    for process in running.processes():
        os.kill(process.pid, signal.SIGKILL)


def kill_pipeline(running: Site, run: UUID) -> None:
    [pid] = running.flow_processes(run)
    os.kill(pid, signal.SIGKILL)


def kill_gpu_worker(running: Site, _run: UUID) -> None:
    running.kill("worker-p4d")
    running.start_worker("p4d")


def kill_cpu_worker(running: Site, _run: UUID) -> None:
    running.kill("worker-cpu")
    running.start_worker("cpu")


def kill_cpu_machine(running: Site, run: UUID) -> None:
    [pid] = running.flow_processes(run)
    running.kill("worker-cpu")
    os.kill(pid, signal.SIGKILL)
    running.start_worker("cpu")


def kill_server(running: Site, _run: UUID) -> None:
    running.kill("server")
    running.start_server()


@pytest.mark.parametrize(
    "kill",
    [
        kill_cpu_machine,
        *(
            pytest.param(kill, marks=pytest.mark.exhaustive)
            for kill in (kill_stage, kill_pipeline, kill_gpu_worker, kill_cpu_worker, kill_server)
        ),
    ],
)
def test_whatever_is_killed_a_retry_ends_in_the_same_bytes(
    running: Site, whole: dict[str, str], kill: Callable[[Site, UUID], None]
) -> None:
    for step in ("score_toxicity", "aggregate_results"):
        shutil.rmtree(running.workspace / "artifacts" / step, ignore_errors=True)
    run = running.begin()
    wait_for(
        lambda: any(process.module == "rlhf.stages.score_toxicity" for process in running.processes()),
        300,
        "a GPU stage",
    )
    kill(running, run)
    state = running.ended(run, LOST_SECONDS if kill is kill_cpu_machine else PATIENCE)
    for _ in range(2):
        if not state.is_completed():
            running.retry(run)
            state = running.ended(run)
    assert state.is_completed(), state
    assert_same(contents(running.workspace), whole)
    wait_for(lambda: not running.processes(), 30, "every stage process to be gone")
    assert running.most_gpu_jobs == 1


def test_cancel_ends_every_rank_with_a_checkpoint_from_which_retry_goes_on(running: Site, browser: Browser) -> None:
    run = running.begin({"ppo.steps": 80, "ppo.checkpoint_every": 1, "ppo.validate_every": 40, "compute.processes": 2})
    fingerprints = running.workspace / "artifacts" / "train_ppo"
    checkpoints = {path.parent.parent for path in fingerprints.glob("*/checkpoints/*")}
    # The page is there before the first checkpoint: the run must not end while it loads.
    wait_for(
        lambda: any(process.module == "rlhf.stages.train_ppo" for process in running.processes()), 300, "PPO to begin"
    )
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(running.page_of(run))
    wait_for(lambda: len(list(fingerprints.glob("*/checkpoints/*"))) > 1, 180, "a checkpoint of PPO")
    assert len(running.processes()) >= 3  # the launcher and two ranks
    # Not click(): the page moves with the run's progress, and a busy machine never draws it at rest.
    page.get_by_role("button", name="Cancel").dispatch_event("click")
    page.get_by_role("dialog").get_by_role("button", name="Confirm").dispatch_event("click")
    wait_for(lambda: not running.processes(), 60, "every rank to end")
    assert running.ended(run, 60).is_cancelled()
    page.close()
    [folder] = {path.parent.parent for path in fingerprints.glob("*/checkpoints/*")} - checkpoints

    def rows() -> list[str]:
        return (folder / METRICS).read_text().splitlines()

    before = rows()
    assert 0 < len(before) < 80
    running.retry(run)
    wait_for(lambda: len(rows()) > len(before), 300, "PPO to go on")
    running.cancel(run)  # the rest of the steps, and what is behind them, is not what is asked here
    # The rows hold the seconds that they took: what was computed again would differ.
    assert rows()[: len(before) - 1] == before[:-1]


def test_a_schedule_makes_runs_that_wait_for_each_other_and_find_everything_cached(running: Site) -> None:
    def states() -> list[str]:
        return [run.state.name or "" for run in running.scheduled() if run.state]

    with running.client as client:
        deployment = client.read_deployment_by_name("rlhf-pipeline/pipeline")
        every = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(seconds=10)), active=True)
        [schedule] = client.create_deployment_schedules(deployment.id, [every])
    try:
        wait_for(lambda: "AwaitingConcurrencySlot" in states(), 120, "a run that waits for another")
        wait_for(lambda: states().count("Completed") >= 2, 300, "two scheduled runs")
    finally:
        with running.client as client:
            client.delete_deployment_schedule(deployment.id, schedule.id)
    done = [run for run in running.scheduled() if run.state and run.state.is_completed()]
    for earlier, later in pairwise(sorted(done, key=lambda run: str(run.start_time))):
        assert earlier.end_time is not None
        assert later.start_time is not None
        assert earlier.end_time <= later.start_time
    for run in done:
        assert set(running.last_task_states(run.id).values()) == {"Cached"}
