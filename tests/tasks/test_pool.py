"""A stage on the GPU pool: it is followed to its end, found again after a retry, and its errors are passed on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Cancelling, Completed, Failed, Running

from flows.server.deploy import deploy
from flows.stage import stage
from rlhf.config import ComputeConfig
from rlhf.errors import UserError
from rlhf.profiles import load_profile
from rlhf.runtime.stage import StageRequest
from rlhf.storage.fingerprints import source_digest
from tasks import pool
from tasks.execute import require_same_code
from tasks.launch import NO_CALLBACKS, StageFailedError, StageJob
from tasks.pool import get_or_create_run, retry_while_unreachable, run_on_pool
from tests.support.cli import CommandLine

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undeployed", "deployed")]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> None:
    deploy(load_profile("quickstart", ()), tmp_path_factory.mktemp("runs"))


@pytest.fixture
def job(tmp_path: Path) -> StageJob:
    return StageJob(
        label="train_ppo",
        module="rlhf.stages.train_ppo",
        code="",
        needs_gpu=True,
        offline=True,
        request=StageRequest(stage="train_ppo", fingerprint=tmp_path.name, config={}, inputs={}),
        output=tmp_path / "artifact",
        tracker_folder=tmp_path / "tracker",
        compute=ComputeConfig(),
    )


def stage_runs(job: StageJob) -> list[FlowRun]:
    """The pool's runs of this job, the oldest first."""
    with get_client(sync_client=True) as client:
        runs = [
            run for run in client.read_flow_runs() if run.parameters.get("job", {}).get("output") == str(job.output)
        ]
    return sorted(runs, key=lambda run: str(run.created))


def set_state(run: FlowRun, state: State[object]) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, state, force=True)


@contextmanager
def worker(job: StageJob, *states: State[object]) -> Iterator[None]:
    """Stands in for a worker: each new run of the job gets the next of the states."""

    def work() -> None:
        finished: set[object] = set()
        for state in states:
            while not (new_runs := [run for run in stage_runs(job) if run.id not in finished]):
                time.sleep(0.1)
            set_state(new_runs[0], Running())
            set_state(new_runs[0], state)
            finished.add(new_runs[0].id)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    thread.join(30)
    assert not thread.is_alive()


def pipeline(job: StageJob, times: int = 1) -> Callable[[], None]:
    """A flow that runs the job `times` times, like retries of one run of the pipeline."""

    @flow(name="stand-in-pipeline")
    def run() -> None:
        for attempt in range(times):
            try:
                run_on_pool(job, "p4d", NO_CALLBACKS)
            except StageFailedError:
                if attempt == times - 1:
                    raise

    return run


def test_a_finished_run_is_found_again_and_not_repeated(job: StageJob) -> None:
    with worker(job, Completed()):
        pipeline(job, times=2)()
    assert len(stage_runs(job)) == 1


def test_an_error_names_the_run_and_the_reason_and_a_retry_starts_a_new_run(job: StageJob) -> None:
    failure: State[object] = Failed(message="Flow run encountered an exception: StageFailedError: killed by SIGKILL")
    with (
        worker(job, failure),
        pytest.raises(StageFailedError, match=r"p4d, run train_ppo: .*killed by SIGKILL"),
    ):
        pipeline(job)()
    with worker(job, failure, Completed()):
        pipeline(job, times=2)()
    assert [run.state.name for run in stage_runs(job) if run.state][-2:] == ["Failed", "Completed"]


def test_an_error_that_the_user_can_fix_stays_one(job: StageJob) -> None:
    failure: State[object] = Failed(
        message="Flow run encountered an exception: UserError: cannot write: No space left on device"
    )
    with worker(job, failure), pytest.raises(UserError, match=r"^cannot write: No space left on device$"):
        pipeline(job)()


@pytest.mark.parametrize("module", ["rlhf.stages.train_ppo", "rlhf.stages.unknown"])
def test_a_worker_with_other_code_refuses_the_stage(job: StageJob, module: str) -> None:
    """Otherwise its artifact would be filed under a fingerprint of code that did not run."""
    with pytest.raises(UserError, match=rf"this worker's {module} is not the one of the pipeline"):
        stage.fn(job.model_copy(update={"module": module, "code": "0" * 64}))
    assert not job.output.exists()
    require_same_code(job.model_copy(update={"code": source_digest(job.module)}))


def finish_cancelling(job: StageJob) -> None:
    """Stands in for a worker that cancels the first run when asked to."""
    while not ((state := stage_runs(job)[0].state) and state.is_cancelling()):
        time.sleep(0.1)
    time.sleep(1)
    set_state(stage_runs(job)[0], Cancelled())


def test_a_run_that_is_being_cancelled_is_not_reused(job: StageJob) -> None:
    @flow(name="stand-in-pipeline")
    def run() -> None:
        first = get_or_create_run(job, "p4d", 0)
        set_state(first, Running())
        set_state(first, Cancelling())
        threading.Thread(target=finish_cancelling, args=(job,), daemon=True).start()
        run_on_pool(job, "p4d", NO_CALLBACKS)

    def complete_second() -> None:
        while len(runs := stage_runs(job)) < 2:
            time.sleep(0.1)
        set_state(runs[1], Completed())

    threading.Thread(target=complete_second, daemon=True).start()
    run()
    assert [run.state.name for run in stage_runs(job) if run.state] == ["Cancelled", "Completed"]


def test_cancelling_the_pipeline_cancels_its_stage_run(job: StageJob) -> None:
    @flow(name="stand-in-pipeline")
    def run() -> None:
        set_state(get_or_create_run(job, "p4d", 0), Running())
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(UUID(flow_run.get_id()), Cancelling())
        threading.Thread(target=finish_cancelling, args=(job,), daemon=True).start()
        run_on_pool(job, "p4d", NO_CALLBACKS)

    with pytest.raises(StageFailedError, match="run train_ppo: Cancelled"):
        run()
    assert [run.state.name for run in stage_runs(job) if run.state] == ["Cancelled"]


def test_ctrl_c_cancels_the_stage_run_on_the_pool(prefect_server: str, tmp_path: Path) -> None:
    command = CommandLine(tmp_path / "runs", tmp_path / "prefect", server=prefect_server)
    process = command.start("run", "quickstart", "--workspace", str(command.workspace), "--set=compute.gpu_pool=p4d")

    def created_runs() -> list[FlowRun]:
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs()
        return [run for run in runs if str(tmp_path) in run.parameters.get("job", {}).get("output", "")]

    while not created_runs():
        assert process.poll() is None
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == "stopped; run the same command again to resume\n"
    assert [run.state.name for run in created_runs() if run.state] == ["Cancelled"]


def test_a_pool_without_a_deployment_is_a_user_error(job: StageJob) -> None:
    with pytest.raises(UserError, match=r"compute\.gpu_pool \(p5\): .*no deployment rlhf-stage/p5; run `rlhf deploy`"):
        run_on_pool(job, "p5", NO_CALLBACKS)


def test_requests_are_retried_while_the_server_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "POLL_SECONDS", 0.0)
    answers: Iterator[Exception | int] = iter([httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), 7])

    def request(argument: str) -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        assert argument == "a run"
        return answer

    assert retry_while_unreachable(request, "a run") == 7
    monkeypatch.setattr(pool, "UNREACHABLE_SECONDS", -1.0)
    answers = iter([httpx.ConnectError("refused")])
    with pytest.raises(httpx.ConnectError):
        retry_while_unreachable(request, "a run")
