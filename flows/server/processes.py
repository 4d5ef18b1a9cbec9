"""Start a Prefect server and workers as child processes, for one machine or for one run."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_ENABLE_HTTP2,
    PREFECT_API_KEY,
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_TLS_INSECURE_SKIP_VERIFY,
    PREFECT_API_URL,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    PREFECT_CLIENT_CUSTOM_HEADERS,
    PREFECT_CLIENT_MAX_RETRIES,
    get_current_settings,
    temporary_settings,
)
from rich.console import Console

from flows.server.settings import prepare_for_server, use_own_server
from rlhf.errors import UserError
from tasks.environment import forget_other_servers, hide_unusable_proxies, isolate, reach_loopback_directly
from tasks.process_group import ask_to_end, start_group, wait_for_end

START_SECONDS = 120.0
"""Enough for a server on a busy machine, which takes most of a minute to create its database."""
STOP_SECONDS = 45.0
"""Longer than the grace of a stage, so that its checkpoint is saved."""
POLL_SECONDS = 0.3
RESTARTS = 3
"""How often a server that ends by itself is started again."""
LOST_SECONDS = 35.0
"""Time for a run without server to end its stages; longer than their grace.  Then the process ends."""
MEANT_FOR_OTHER_SERVERS = (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_ENABLE_HTTP2,
    PREFECT_API_KEY,
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_TLS_INSECURE_SKIP_VERIFY,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    PREFECT_CLIENT_CUSTOM_HEADERS,
    PREFECT_CLIENT_MAX_RETRIES,
)
"""Settings of Prefect's client that do not hold for a server of our own, wherever they come from."""


class Services:
    """Named child processes, each with a log file.  They end with the `with` block."""

    def __init__(self, logs: Path, api: str) -> None:
        self.logs = logs.absolute()
        self.api = api
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.lost: str | None = None
        """Message for the user if a server ended again and again; this process has then been interrupted."""
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()

    def start(self, name: str, *arguments: str, **environment: str) -> None:
        """Start `python -m ARGUMENTS` and append its output to NAME.log."""
        with self._starting, (self.logs / f"{name}.log").open("ab") as log:
            if self._stopping.is_set():
                raise UserError(f"the Prefect {name} is not started again, because the run is being stopped")
            # Not in the current folder: Prefect reads settings from files there.
            self.running[name] = start_group(
                [sys.executable, "-m", *arguments],
                service_environment(os.environ, self.api, self.logs) | environment,
                output=log,
                grace_seconds=STOP_SECONDS,
                folder=self.logs,
            )

    def server(self, port: int, **environment: str) -> None:
        """Start a server on 127.0.0.1 and wait until it answers.  Raises UserError if it does not."""
        address = ("--host", "127.0.0.1", "--port", str(port))
        self.start("server", "flows.server.gc_safe_server", "start", *address, **environment)
        self._wait_until("server", self._is_healthy)

    def keep_server(self, port: int, **environment: str) -> None:
        """Start a server as `server` does, and again if it ends, on the same port and the same database.

        If it ends too often, `lost` is set, and this process is interrupted as by Ctrl-C so that stages are saved.
        """
        self.server(port, **environment)
        threading.Thread(target=self._restart_server, args=(port, environment), daemon=True).start()

    def _restart_server(self, port: int, environment: dict[str, str]) -> None:
        for attempt in range(RESTARTS + 1):
            while (server := self.running.get("server")) is not None and server.poll() is None:
                if self._stopping.wait(POLL_SECONDS):
                    return
            if attempt < RESTARTS:
                with suppress(UserError):  # it ended while it started
                    self.server(port, **environment)
            elif not self._stopping.is_set():
                self._end_run()

    def _end_run(self) -> None:
        self.lost = (
            f"the Prefect server of this run ended {RESTARTS + 1} times; see {self.logs / 'server.log'}; "
            "run the same command again to resume"
        )
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(LOST_SECONDS)  # after which Prefect still tries to report to the server
        if not self._stopping.is_set():
            Console(stderr=True).show_cursor()
            print(f"error: {self.lost}", file=sys.stderr, flush=True)
        os._exit(2)

    def worker(self, pool: str, **environment: str) -> None:
        """Start a worker of `pool` that looks for work every second."""
        environment = {"PREFECT_WORKER_QUERY_SECONDS": "1", **environment}
        self.start(f"worker-{pool}", "prefect", "worker", "start", "--pool", pool, "--name", pool, **environment)

    def stop(self, name: str) -> None:
        """End a process and all others of its group."""
        process = self.running.pop(name)
        ask_to_end(process)
        wait_for_end(process, STOP_SECONDS)

    def stop_all(self) -> None:
        """End all processes, the server last, because workers report the end of their runs to it."""
        self._stopping.set()
        with self._starting:  # what is being started is in the list after this
            pass
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
            process = self.running.get(name)
            ended = process is None or process.poll() is not None
            if ended or time.monotonic() > deadline:
                problem = "ended" if ended else f"did not answer within {START_SECONDS:.0f} s"
                raise UserError(f"the Prefect {name} {problem}; see {self.logs / name}.log")
            time.sleep(POLL_SECONDS)

    def _is_healthy(self) -> bool:
        try:
            return httpx.get(f"{self.api}/health", timeout=5).is_success
        except httpx.TransportError:
            return False


def service_environment(inherited: Mapping[str, str], api: str, folder: Path) -> dict[str, str]:
    """Environment variables of a server of our own and of its workers.  `folder` has no settings of Prefect."""
    environment = dict(inherited)
    isolate(environment)
    reach_loopback_directly(environment)
    hide_unusable_proxies(environment)
    use_own_server(environment, api, folder)
    return environment


@contextmanager
def temporary_server() -> Iterator[str | None]:
    """Provide a Prefect server: the configured one, or a temporary one.  Yields the temporary server's URL, else None.

    Prefect's own temporary server is not enough: Ctrl-C kills it before the run can report its state, and it survives
    if the run is killed.
    """
    api = PREFECT_API_URL.value()
    if api is not None:
        prepare_for_server(str(api))
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    api = f"{url}/api"
    prepare_for_server(api)
    forget_other_servers(os.environ)
    services = Services(get_current_settings().home / "temporary-server", api)
    atexit.register(services.stop_all)  # not after the `with` block: Prefect still sends to the server at exit
    services.keep_server(port)
    with temporary_settings({PREFECT_API_URL: api}, restore_defaults=MEANT_FOR_OTHER_SERVERS):
        try:
            yield url
        except KeyboardInterrupt:
            if services.lost is None:
                raise
            services.stop_all()
            raise UserError(services.lost) from None
