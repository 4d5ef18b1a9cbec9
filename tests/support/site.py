"""A whole site on this machine: a Prefect server and a worker of each pool, each with a home of its own."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.server.deploy import deploy
from flows.server.processes import Services
from rlhf.profiles import load_profile
from tests.support.cli import SMALL, free_port

METRICS = "metrics.jsonl"
PATIENCE = 1200.0
"""Seconds for a run of the shrunk quickstart to end, on a machine that has much else to do."""
CPU_STEPS = (
    "rlhf.stages.prepare_data",
    "rlhf.stages.export_labeling_manifest",
    "rlhf.stages.aggregate_results",
    "rlhf.stages.export_model",
)
"""Stages that need no accelerator; all others belong on the GPU pool."""


def overrides(settings: dict[str, object] | None = None) -> list[str]:
    """The shrunk quickstart and further settings, as --set takes them."""
    return [f"{name}={json.dumps(value)}" for name, value in {**SMALL, **(settings or {})}.items()]


@dataclass(frozen=True)
class Process:
    """A process of a stage."""

    pid: int
    group: int
    module: str
    worker: str
    """Which service started it, by way of its ancestors; empty where that is gone."""


@dataclass
class Site:
    """The server, its workers and one workspace."""

    folder: Path
    port: int
    services: Services
    shared: str | None = None
    """s3://bucket/prefix, where the artifacts are kept there."""
    seen: set[tuple[str, str]] = field(default_factory=set)
    """Module and worker of every stage process that was seen."""
    most_gpu_jobs: int = 0
    """Most process groups of GPU stages that were seen at once."""

    @property
    def workspace(self) -> Path:
        """Where the artifacts are."""
        return self.folder / "runs"

    @property
    def client(self) -> SyncPrefectClient:
        """A client of the server; a context manager."""
        return get_client(sync_client=True)

    def start_server(self) -> None:
        """Start the server, again perhaps, on the same database."""
        self.services.server(self.port, PREFECT_HOME=str(self.folder / "home-server"))

    def start_worker(self, pool: str) -> None:
        """Start the worker of a pool with a home and a cache of its own."""
        home, cache = self.folder / f"home-{pool}", self.cache_of(pool)
        self.services.worker(pool, PREFECT_HOME=str(home), RLHF_CACHE=str(cache))

    def cache_of(self, pool: str) -> Path:
        """Where a worker keeps what it fetched from S3."""
        return self.folder / f"cache-{pool}"

    def kill(self, name: str) -> None:
        """Kill a service's own process, and nothing else, without a word."""
        process = self.services.running.pop(name)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def begin(self, settings: dict[str, object] | None = None) -> UUID:
        """Have the pipeline run by its deployment."""
        config = load_profile("quickstart", overrides({"compute.gpu_pool": "p4d", **(settings or {})}))
        with self.client as client:
            deployment = client.read_deployment_by_name("rlhf-pipeline/pipeline")
            run = client.create_flow_run_from_deployment(
                deployment.id, parameters={**deployment.parameters, "config": config.model_dump(mode="json")}
            )
        return run.id

    def run(self, run: UUID) -> FlowRun:
        """The run as the server knows it."""
        with self.client as client:
            return client.read_flow_run(run)

    def ended(self, run: UUID, seconds: float = PATIENCE) -> State[object]:
        """The final state of a run."""
        wait_for(lambda: is_final(self.run(run)), seconds, f"run {run} to end")
        state = self.run(run).state
        assert state is not None
        return state

    def retry(self, run: UUID) -> None:
        """What the Retry button asks of the server."""
        time.sleep(8)  # the worker first learns that the run has ended
        with self.client as client:
            client.set_flow_run_state(run, State(type=StateType.SCHEDULED, name="AwaitingRetry"))
        wait_for(lambda: not is_final(self.run(run)), 30, f"run {run} to be retried")

    def cancel(self, run: UUID) -> None:
        """What the Cancel button asks of the server; waits until the run and its processes are gone."""
        with self.client as client:
            client.set_flow_run_state(run, State(type=StateType.CANCELLING))
        wait_for(lambda: not self.processes(), 60, "its processes to end")
        self.ended(run, 60)

    def page_of(self, run: UUID) -> str:
        """Address of a run's page in the UI."""
        return f"http://127.0.0.1:{self.port}/runs/flow-run/{run}"

    def scheduled(self) -> list[FlowRun]:
        """The runs of the pipeline that its schedule made, the oldest first."""
        with self.client as client:
            runs = client.read_flow_runs(
                flow_run_filter=FlowRunFilter.model_validate({"tags": {"all_": ["auto-scheduled"]}}),
                sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            )
        return [run for run in runs if run.auto_scheduled]

    def flow_processes(self, run: UUID) -> list[int]:
        """The process in which the flow of a run executes, where there is one."""
        return [
            int(folder.name)
            for folder in Path("/proc").glob("[0-9]*")
            if _environment(folder).get("PREFECT__FLOW_RUN_ID") == str(run) and "prefect.engine" in _command(folder)
        ]

    def last_task_states(self, run: UUID) -> dict[str, str]:
        """Name of the state of each step's newest task run."""
        with self.client as client:
            tasks: list[TaskRun] = client.read_task_runs(
                flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [str(run)]}})
            )
        newest = {task.name: task for task in sorted(tasks, key=lambda task: str(task.created))}
        return {name: task.state.name for name, task in newest.items() if task.state and task.state.name}

    def processes(self) -> list[Process]:
        """The processes of stages that work in this workspace."""
        owners = {process.pid: name for name, process in self.services.running.items()}
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = _command(folder).split("\0")
                if str(self.workspace) not in " ".join(words) or "--output" not in words:
                    continue
                module = next(word for word in words if word.startswith("rlhf."))
                group = int(_status(folder)[2])
                found.append(Process(int(folder.name), group, module, _owner(folder, owners)))
            except (FileNotFoundError, ProcessLookupError, StopIteration):
                continue
        return found

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note who runs what, and how many GPU jobs at once, while the body runs."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.25):
                processes = self.processes()
                self.seen |= {(process.module, process.worker) for process in processes if process.worker}
                jobs = {process.group for process in processes if process.module not in CPU_STEPS}
                self.most_gpu_jobs = max(self.most_gpu_jobs, len(jobs))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextmanager
def site(folder: Path, shared: str | None = None) -> Iterator[Site]:
    """A running site with the deployments of the shrunk quickstart, its artifacts in a folder or in S3."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    with temporary_settings({PREFECT_API_URL: api}), Services(folder / "logs", api) as services:
        made = Site(folder, port, services, shared)
        made.start_server()
        deploy(load_profile("quickstart", overrides()), shared or made.workspace)
        made.start_worker("cpu")
        made.start_worker("p4d")
        with made.watched():
            yield made


def untimed(rows: bytes) -> list[dict[str, object]]:
    """Rows of metrics without what tells how long something took."""
    loaded = [json.loads(line) for line in rows.splitlines()]
    return [{name: value for name, value in row.items() if "second" not in name} for row in loaded]


def is_final(run: FlowRun) -> bool:
    """Whether nothing more will happen by itself."""
    return run.state is not None and run.state.is_final()


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until `condition` holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.3)


def _status(process: Path) -> list[str]:
    """Fields of /proc/PID/stat behind the name: state, parent, group, ..."""
    return (process / "stat").read_text().rpartition(")")[2].split()


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _environment(process: Path) -> dict[str, str]:
    try:
        entries = (process / "environ").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def _owner(process: Path, owners: dict[int, str]) -> str:
    while int(process.name) > 1:
        if int(process.name) in owners:
            return owners[int(process.name)]
        process = process.with_name(_status(process)[1])
    return ""
