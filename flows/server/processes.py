"""Start a Prefect server and workers as child processes, for one machine or for one run."""

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
"""Enough for a server on a busy machine, which takes most of a minute to create its database."""
STOP_SECONDS = 45.0
"""Longer than the grace of a stage, so that its checkpoint is saved."""


class Services:
    """Named child processes, each with a log file.  They end with the `with` block."""

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
        """Start `python -m ARGUMENTS` and append its output to NAME.log."""
        settings = {"PREFECT_API_URL": self.api, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
        with (self.logs / f"{name}.log").open("ab") as log:
            self.running[name] = start_group(
                [sys.executable, "-m", *arguments], os.environ | settings | environment, output=log
            )

    def server(self, port: int, **environment: str) -> None:
        """Start a server on 127.0.0.1 and wait until it answers.  Raises UserError if it does not."""
        address = ("--host", "127.0.0.1", "--port", str(port))
        self.start("server", "flows.server.gc_safe_server", "start", *address, **environment)
        self._wait_until("server", self._is_healthy)

    def worker(self, pool: str, **environment: str) -> None:
        """Start a worker of `pool` that looks for work every second."""
        environment = {"PREFECT_WORKER_QUERY_SECONDS": "1", **environment}
        self.start(f"worker-{pool}", "prefect", "worker", "start", "--pool", pool, "--name", pool, **environment)

    def stop(self, name: str) -> None:
        """End a process and all others of its group."""
        process = self.running.pop(name)
        signal_group(process, signal.SIGTERM)
        kill_after(process, STOP_SECONDS)
        process.wait()

    def stop_all(self) -> None:
        """End all processes, the server last, because workers report the end of their runs to it."""
        for name in reversed(list(self.running)):
            self.stop(name)

    def wait(self) -> None:
        """Wait for ever.  Raises UserError if a process ends."""
        while True:
            for name, process in self.running.items():
                if process.poll() is not None:
                    raise UserError(f"{name} ended with exit code {process.returncode}; see {self.logs / name}.log")
            time.sleep(1)

    def _wait_until(self, name: str, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            ended = self.running[name].poll() is not None
            if ended or time.monotonic() > deadline:
                problem = "ended" if ended else f"did not answer within {START_SECONDS:.0f} s"
                raise UserError(f"the Prefect {name} {problem}; see {self.logs / name}.log")
            time.sleep(0.3)

    def _is_healthy(self) -> bool:
        try:
            return httpx.get(f"{self.api}/health", timeout=5).is_success
        except httpx.TransportError:
            return False


@contextmanager
def temporary_server() -> Iterator[str | None]:
    """Provide a Prefect server: the configured one, or a temporary one.  Yields the temporary server's URL, else None.

    Prefect's own temporary server is not enough: Ctrl-C kills it before the run can report its state, and it survives
    if the run is killed.
    """
    if PREFECT_API_URL.value() is not None:
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    api = f"{url}/api"
    services = Services(get_current_settings().home / "temporary-server", api)
    atexit.register(services.stop_all)  # not after the `with` block: Prefect still sends to the server at exit
    services.server(port)
    with temporary_settings({PREFECT_API_URL: api}):
        yield url
