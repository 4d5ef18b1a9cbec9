"""A site on this machine: a Prefect server and one worker per pool, each with its own PREFECT_HOME."""

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
from rlhf.storage.artifacts import MANIFEST
from rlhf.storage.fingerprints import digest
from rlhf.storage.s3 import Bucket
from rlhf.storage.s3_store import ARTIFACTS
from tests.support.cli import SMALL, free_port, set_arguments

METRICS = "metrics.jsonl"
FILES_WITH_TIMES = ("results.json", "report.html", "README.md")
"""Files that contain how long stages took."""
RUN_TIMEOUT_SECONDS = 1200.0
"""Time limit for a run of the shrunk quickstart on a busy machine."""
CPU_STAGE_MODULES = (
    "rlhf.stages.prepare_data",
    "rlhf.stages.export_labeling_manifest",
    "rlhf.stages.aggregate_results",
    "rlhf.stages.export_model",
)
"""Modules of the stages that run without a GPU; all others must run on the GPU pool."""


def overrides(settings: dict[str, object] | None = None) -> list[str]:
    """Arguments of --set for the shrunk quickstart and more settings."""
    return set_arguments({**SMALL, **(settings or {})})


@dataclass(frozen=True)
class Process:
    """A process of a stage."""

    pid: int
    group: int
    module: str
    worker: str
    """The service that started it, directly or not; empty if that has ended."""


@dataclass
class Site:
    """The server, its workers and one workspace."""

    folder: Path
    port: int
    services: Services
    remote_uri: str | None = None
    """s3://bucket/prefix, if the workspace is in S3."""
    observed: set[tuple[str, str]] = field(default_factory=set)
    """Module and worker of every stage process that was observed."""
    max_gpu_jobs: int = 0
    """Maximum number of process groups of GPU stages at the same time."""

    @property
    def workspace(self) -> Path:
        """Folder of artifacts and results."""
        return self.folder / "runs"

    @property
    def client(self) -> SyncPrefectClient:
        """A client of the server; a context manager."""
        return get_client(sync_client=True)

    def start_server(self) -> None:
        """Start or restart the server on the same database."""
        self.services.server(self.port, PREFECT_HOME=str(self.folder / "home-server"))

    def start_worker(self, pool: str) -> None:
        """Start the worker of a pool with its own PREFECT_HOME and RLHF_CACHE."""
        home, cache = self.folder / f"home-{pool}", self.cache_of(pool)
        self.services.worker(pool, PREFECT_HOME=str(home), RLHF_CACHE=str(cache))

    def cache_of(self, pool: str) -> Path:
        """RLHF_CACHE of a worker."""
        return self.folder / f"cache-{pool}"

    def kill(self, name: str) -> None:
        """Kill the process of a service, but not its children, with SIGKILL."""
        process = self.services.running.pop(name)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def start_run(self, settings: dict[str, object] | None = None) -> UUID:
        """Start a run of the pipeline's deployment; returns its id."""
        config = load_profile("quickstart", overrides({"compute.gpu_pool": "p4d", **(settings or {})}))
        with self.client as client:
            deployment = client.read_deployment_by_name("rlhf-pipeline/pipeline")
            run = client.create_flow_run_from_deployment(
                deployment.id, parameters={**deployment.parameters, "config": config.model_dump(mode="json")}
            )
        return run.id

    def run(self, run: UUID) -> FlowRun:
        """The run, as it is on the server."""
        with self.client as client:
            return client.read_flow_run(run)

    def wait_until_final(self, run: UUID, seconds: float = RUN_TIMEOUT_SECONDS) -> State[object]:
        """Wait until a run is final; returns its state."""
        wait_for(lambda: is_final(self.run(run)), seconds, f"run {run} to end")
        state = self.run(run).state
        assert state is not None
        return state

    def retry(self, run: UUID) -> None:
        """Do what the Retry button does."""
        time.sleep(8)  # until the worker knows that the run has ended
        with self.client as client:
            client.set_flow_run_state(run, State(type=StateType.SCHEDULED, name="AwaitingRetry"))
        wait_for(lambda: not is_final(self.run(run)), 30, f"run {run} to be retried")

    def cancel(self, run: UUID) -> None:
        """Do what the Cancel button does, and wait until the run and its processes have ended."""
        with self.client as client:
            client.set_flow_run_state(run, State(type=StateType.CANCELLING))
        wait_for(lambda: not self.processes(), 60, "its processes to end")
        self.wait_until_final(run, 60)

    def page_of(self, run: UUID) -> str:
        """URL of a run's page in the UI."""
        return f"http://127.0.0.1:{self.port}/runs/flow-run/{run}"

    def scheduled(self) -> list[FlowRun]:
        """The runs of the pipeline that its schedule created, the oldest first."""
        with self.client as client:
            runs = client.read_flow_runs(
                flow_run_filter=FlowRunFilter.model_validate({"tags": {"all_": ["auto-scheduled"]}}),
                sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            )
        return [run for run in runs if run.auto_scheduled]

    def flow_processes(self, *runs: UUID) -> list[int]:
        """The processes in which the flows of these runs execute."""
        names = {str(run) for run in runs}
        return [
            int(folder.name)
            for folder in Path("/proc").glob("[0-9]*")
            if _environment(folder).get("PREFECT__FLOW_RUN_ID") in names and "prefect.engine" in _command(folder)
        ]

    def last_task_states(self, run: UUID) -> dict[str, str]:
        """State of the newest task run of each stage, by label."""
        with self.client as client:
            tasks: list[TaskRun] = client.read_task_runs(
                flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [str(run)]}})
            )
        newest = {task.name: task for task in sorted(tasks, key=lambda task: str(task.created))}
        return {name: task.state.name for name, task in newest.items() if task.state and task.state.name}

    def processes(self) -> list[Process]:
        """The stage processes of this site."""
        owners = {process.pid: name for name, process in self.services.running.items()}
        processes = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                arguments = _command(folder).split("\0")
                if str(self.folder) not in " ".join(arguments) or "--output" not in arguments:
                    continue
                module = next(argument for argument in arguments if argument.startswith("rlhf."))
                group = int(_status(folder)[2])
                processes.append(Process(int(folder.name), group, module, _owner(folder, owners)))
            except (FileNotFoundError, ProcessLookupError, StopIteration):
                continue
        return processes

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record stage processes, their workers and the number of GPU jobs during the `with` block."""
        stop = threading.Event()

        def record() -> None:
            while not stop.wait(0.25):
                processes = self.processes()
                self.observed |= {(process.module, process.worker) for process in processes if process.worker}
                jobs = {process.group for process in processes if process.module not in CPU_STAGE_MODULES}
                self.max_gpu_jobs = max(self.max_gpu_jobs, len(jobs))

        thread = threading.Thread(target=record)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextmanager
def site(folder: Path, remote_uri: str | None = None) -> Iterator[Site]:
    """A running site with the deployments of the shrunk quickstart; its workspace is a folder or in S3."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    with temporary_settings({PREFECT_API_URL: api}), Services(folder / "logs", api) as services:
        running_site = Site(folder, port, services, remote_uri)
        running_site.start_server()
        deploy(load_profile("quickstart", overrides()), remote_uri or running_site.workspace)
        running_site.start_worker("cpu")
        running_site.start_worker("p4d")
        with running_site.recording():
            yield running_site


def artifact_hashes(workspace: Path) -> dict[str, str]:
    """sha256 of every file of every finished artifact; hashes of metrics ignore times."""
    hashes: dict[str, str] = {}
    for path in sorted(workspace.glob("artifacts/*/*/manifest.json")):
        for name, file in json.loads(path.read_bytes())["files"].items():
            rows = untimed((path.parent / name).read_bytes()) if name == METRICS else None
            hashes[f"{path.parent.relative_to(workspace)}/{name}"] = digest(rows) if rows else file["sha256"]
    return hashes


def artifact_hashes_in_s3(uri: str) -> dict[str, str]:
    """The same of a workspace in S3."""
    bucket = Bucket(uri)
    hashes: dict[str, str] = {}
    for manifest in (name for name in bucket.sizes(ARTIFACTS) if name.endswith(f"/{MANIFEST}")):
        folder = f"{ARTIFACTS}/{manifest.removesuffix(f'/{MANIFEST}')}"
        for name, file in json.loads(bucket.read(f"{folder}/{MANIFEST}") or b"").get("files", {}).items():
            rows = untimed(bucket.read(f"{folder}/{name}") or b"") if name == METRICS else None
            hashes[f"{folder}/{name}"] = digest(rows) if rows else file["sha256"]
    return hashes


def differing(hashes: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Names of the files that are missing, too many or have other bytes, apart from files with times."""
    return [
        name
        for name in sorted(hashes.keys() | expected.keys())
        if hashes.get(name) != expected.get(name) and not name.endswith(FILES_WITH_TIMES)
    ]


def untimed(rows: bytes) -> list[dict[str, object]]:
    """Rows of metrics without the fields that are times."""
    return [
        {name: value for name, value in json.loads(line).items() if "second" not in name} for line in rows.splitlines()
    ]


def is_final(run: FlowRun) -> bool:
    """Whether the run has ended."""
    return run.state is not None and run.state.is_final()


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until `condition` holds.  Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.3)


def _status(process: Path) -> list[str]:
    """Fields of /proc/PID/stat after the name: state, parent, group, ..."""
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
