"""The pipeline on a server with two workers: where stages run, and Retry, Cancel and killed processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import IntervalSchedule

from tests.support.cli import CommandLine
from tests.support.paths import ROOT
from tests.support.site import (
    CPU_STAGE_MODULES,
    FILES_WITH_TIMES,
    METRICS,
    RUN_TIMEOUT_SECONDS,
    Site,
    artifact_hashes,
    is_final,
    site,
    wait_for,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser

OUTPUT = ROOT / "test-output"
"""Folder of screenshots of the Prefect UI, to look at."""
LOST_SECONDS = 120
"""Time limit for a run whose process and worker are gone to be marked Crashed."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site on which the shrunk quickstart has run once."""
    with site(tmp_path_factory.mktemp("site")) as running_site:
        state = running_site.wait_until_final(running_site.start_run())
        assert state.is_completed(), state
        yield running_site


@pytest.fixture(scope="module")
def undisturbed(running: Site) -> dict[str, str]:
    """Hashes of the artifacts of an undisturbed run."""
    return artifact_hashes(running.workspace)


def assert_same(hashes: dict[str, str], expected: dict[str, str]) -> None:
    """The same files with the same bytes, except for times."""
    assert hashes.keys() == expected.keys()
    assert [name for name in hashes if hashes[name] != expected[name] and not name.endswith(FILES_WITH_TIMES)] == []


def test_gpu_stages_run_on_their_pool_one_at_a_time_with_the_bytes_of_a_local_run(
    running: Site, undisturbed: dict[str, str], local_run: CommandLine
) -> None:
    assert {worker for module, worker in running.observed if module in CPU_STAGE_MODULES} == {"worker-cpu"}
    assert {worker for module, worker in running.observed if module not in CPU_STAGE_MODULES} == {"worker-p4d"}
    assert len({module for module, _ in running.observed}) >= 7
    assert running.max_gpu_jobs == 1
    assert_same(artifact_hashes(local_run.workspace), undisturbed)


def test_a_full_disk_fails_the_run_and_the_retry_button_finishes_it(running: Site, browser: Browser) -> None:
    disk = running.workspace / "artifacts" / "export_labeling_manifest"
    shutil.rmtree(disk)
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs; run the tests as root")
    try:
        run = running.start_run()
        assert running.wait_until_final(run).is_failed()
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(running.page_of(run))
        page.get_by_text("No space left on device").first.scroll_into_view_if_needed()
        page.screenshot(path=OUTPUT / "failed.png")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    logs = {path: path.stat().st_mtime_ns for path in running.workspace.rglob("log.txt")}
    time.sleep(8)  # until the worker knows that the run has ended
    page.get_by_role("button", name="Retry").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry").click()
    wait_for(lambda: not is_final(running.run(run)), 60, "the retry to start")
    assert running.wait_until_final(run).is_completed()
    page.get_by_text("Completed", exact=True).first.wait_for()
    page.screenshot(path=OUTPUT / "retried.png")
    states = running.last_task_states(run)
    stages_run = {name for name, state in states.items() if state != "Cached"}
    assert stages_run == {"export_labeling_manifest"}, states  # later stages were finished with the same bytes before
    assert {path: path.stat().st_mtime_ns for path in logs} == logs  # no process of an earlier stage has started
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
def test_after_any_kill_a_retry_ends_with_the_same_bytes(
    running: Site, undisturbed: dict[str, str], kill: Callable[[Site, UUID], None]
) -> None:
    for stage in ("score_toxicity", "aggregate_results"):
        shutil.rmtree(running.workspace / "artifacts" / stage, ignore_errors=True)
    run = running.start_run()
    wait_for(
        lambda: any(process.module == "rlhf.stages.score_toxicity" for process in running.processes()),
        300,
        "a GPU stage",
    )
    kill(running, run)
    state = running.wait_until_final(run, LOST_SECONDS if kill is kill_cpu_machine else RUN_TIMEOUT_SECONDS)
    for _ in range(2):
        if not state.is_completed():
            running.retry(run)
            state = running.wait_until_final(run)
    assert state.is_completed(), state
    assert_same(artifact_hashes(running.workspace), undisturbed)
    wait_for(lambda: not running.processes(), 30, "every stage process to end")
    assert running.max_gpu_jobs == 1


def test_cancel_ends_every_rank_with_a_checkpoint_and_retry_resumes_from_it(running: Site, browser: Browser) -> None:
    run = running.start_run(
        {"ppo.steps": 80, "ppo.checkpoint_every": 1, "ppo.validate_every": 40, "compute.processes": 2}
    )
    fingerprints = running.workspace / "artifacts" / "train_ppo"
    checkpoints = {path.parent.parent for path in fingerprints.glob("*/checkpoints/*")}
    # Load the page before the first checkpoint, because the run must not end while it loads.
    wait_for(
        lambda: any(process.module == "rlhf.stages.train_ppo" for process in running.processes()), 300, "PPO to start"
    )
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(running.page_of(run))
    wait_for(lambda: len(list(fingerprints.glob("*/checkpoints/*"))) > 1, 180, "a checkpoint of PPO")
    assert len(running.processes()) >= 3  # the launcher and two ranks
    # Not click(): it waits until the page stops moving, which it may never do while progress is shown.
    page.get_by_role("button", name="Cancel").dispatch_event("click")
    page.get_by_role("dialog").get_by_role("button", name="Confirm").dispatch_event("click")
    wait_for(lambda: not running.processes(), 60, "every rank to end")
    assert running.wait_until_final(run, 60).is_cancelled()
    page.close()
    [folder] = {path.parent.parent for path in fingerprints.glob("*/checkpoints/*")} - checkpoints

    def rows() -> list[str]:
        return (folder / METRICS).read_text().splitlines()

    before = rows()
    assert 0 < len(before) < 80
    running.retry(run)
    wait_for(lambda: len(rows()) > len(before), 300, "PPO to resume")
    running.cancel(run)  # the remaining steps and stages are not part of this test
    # The rows contain times, so rows that were computed again would differ.
    assert rows()[: len(before) - 1] == before[:-1]


def test_scheduled_runs_wait_for_each_other_and_are_cached(running: Site) -> None:
    def states() -> list[str]:
        return [run.state.name or "" for run in running.scheduled() if run.state]

    with running.client as client:
        deployment = client.read_deployment_by_name("rlhf-pipeline/pipeline")
        every_10_seconds = DeploymentScheduleCreate(
            schedule=IntervalSchedule(interval=timedelta(seconds=10)), active=True
        )
        [schedule] = client.create_deployment_schedules(deployment.id, [every_10_seconds])
    try:
        wait_for(lambda: "AwaitingConcurrencySlot" in states(), 120, "a run that waits for another")
        wait_for(lambda: states().count("Completed") >= 2, 300, "two scheduled runs")
    finally:
        with running.client as client:
            client.delete_deployment_schedule(deployment.id, schedule.id)
    completed = [run for run in running.scheduled() if run.state and run.state.is_completed()]
    for earlier, later in pairwise(sorted(completed, key=lambda run: str(run.start_time))):
        assert earlier.end_time is not None
        assert later.start_time is not None
        assert earlier.end_time <= later.start_time
    for run in completed:
        assert set(running.last_task_states(run.id).values()) == {"Cached"}
