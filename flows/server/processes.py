"""A Prefect server and its workers as children of this process, for one machine or one run."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from rlhf.errors import UserError
from tasks.process_group import kill_after, signal_group, start_group

START_SECONDS = 120.0
"""A server that makes its database on a busy machine takes most of a minute."""
STOP_SECONDS = 45.0
"""More than a stage's own grace, so that its checkpoint is saved."""


class Services:
    """Processes by name, each with a log file; all of them end with the `with` block."""

    def __init__(self, logs: Path, api: str) -> None:
        self.logs = logs
        self.api = api
        self.running: dict[str, subprocess.Popen[str]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()

    def start(self, name: str, *arguments: str, **environment: str) -> None:
        """Start `python -m ARGUMENTS`, its output appended to NAME.log."""
        settings = {"PREFECT_API_URL": self.api, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
        with (self.logs / f"{name}.log").open("ab") as log:
            self.running[name] = start_group(
                [sys.executable, "-m", *arguments], os.environ | settings | environment, output=log
            )

    def server(self, port: int, **environment: str) -> None:
        """Start a server on this machine's loopback and wait until it answers."""
        where = ("--host", "127.0.0.1", "--port", str(port))
        self.start("server", "flows.server.gc_safe_server", "start", *where, **environment)
        self._wait("server", self._healthy)

    def worker(self, pool: str, **environment: str) -> None:
        """Start a worker of `pool`, looking for work every second."""
        environment = {"PREFECT_WORKER_QUERY_SECONDS": "1", **environment}
        self.start(f"worker-{pool}", "prefect", "worker", "start", "--pool", pool, "--name", pool, **environment)

    def stop(self, name: str) -> None:
        """End a service with all processes of its group."""
        process = self.running.pop(name)
        signal_group(process, signal.SIGTERM)
        kill_after(process, STOP_SECONDS)
        process.wait()

    def stop_all(self) -> None:
        """End every service, the server last: workers tell it how their runs ended."""
        for name in reversed(list(self.running)):
            self.stop(name)

    def wait(self) -> None:
        """Return when a service ends by itself: UserError with its log."""
        while True:
            for name, process in self.running.items():
                if process.poll() is not None:
                    raise UserError(f"{name} ended with exit code {process.returncode}; see {self.logs / name}.log")
            time.sleep(1)

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            ended = self.running[name].poll() is not None
            if ended or time.monotonic() > deadline:
                why = "ended" if ended else f"did not answer within {START_SECONDS:.0f} s"
                raise UserError(f"the Prefect {name} {why}; see {self.logs / name}.log")
            time.sleep(0.3)

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"{self.api}/health", timeout=5).is_success
        except httpx.TransportError:
            return False


@contextmanager
def server_of_a_run() -> Iterator[str | None]:
    """Within it there is a Prefect server: the one of Prefect's settings, or else one of our own, whose page is given.

    Prefect would start one too, but one that a Ctrl-C in the terminal ends before the run has told it how it stopped,
    and that outlives a run that is killed.
    """
    if PREFECT_API_URL.value() is not None:
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    page = f"http://127.0.0.1:{port}"
    api = f"{page}/api"
    services = Services(get_current_settings().home / "server-of-a-run", api)
    atexit.register(services.stop_all)  # not behind the body: when this process exits Prefect has last words for it
    services.server(port)
    with temporary_settings({PREFECT_API_URL: api}):
        yield page
