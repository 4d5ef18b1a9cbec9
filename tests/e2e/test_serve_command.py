"""`rlhf serve` starts a server and workers; Ctrl-C ends all of their processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.support.cli import free_port, marked
from tests.support.hostile import FOREIGN_ENVIRONMENT, hostile_folder
from tests.support.site import wait_for

PASSWORD = ("admin", "secret")
"""Of PREFECT_SERVER_API_AUTH_STRING in FOREIGN_ENVIRONMENT."""
pytestmark = pytest.mark.slow


def test_everything_starts_and_ctrl_c_ends_every_process(tmp_path: Path) -> None:
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    command = [str(Path(sys.executable).with_name("rlhf")), "serve", "--port", str(port), "--workspace", str(tmp_path)]
    mark = f"test-{port}"
    environment = os.environ | FOREIGN_ENVIRONMENT
    environment |= {"PREFECT_HOME": str(tmp_path / "home"), "RLHF_TEST_MARK": mark}
    hostile = hostile_folder(tmp_path / "current")
    with subprocess.Popen(command, env=environment, cwd=hostile, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert f"Prefect is at http://127.0.0.1:{port}" in process.stdout.readline()
        for pool in ("cpu", "p4d"):
            wait_for(partial(online, api, pool), 90, f"the worker of pool {pool}")
        names = httpx.post(f"{api}/deployments/filter", json={}, auth=PASSWORD).json()
        assert {deployment["name"] for deployment in names} == {"pipeline", "labels", "p4d"}
        assert httpx.post(f"{api}/deployments/filter", json={}).status_code == 401  # protected as the environment asks
        assert len(marked(mark)) >= 4
        process.send_signal(signal.SIGINT)
        assert process.wait(100) == 130
    assert marked(mark) == {}


def test_a_port_in_use_is_a_one_line_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        command = [str(Path(sys.executable).with_name("rlhf")), "serve", "--port", port, "--workspace", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr == f"error: port {port} is in use, perhaps by a Prefect server; choose another one with --port\n"


def online(api: str, pool: str) -> bool:
    """Whether a worker of the pool is online."""
    workers = httpx.post(f"{api}/work_pools/{pool}/workers/filter", json={}, auth=PASSWORD).json()
    return any(worker["status"] == "ONLINE" for worker in workers)
