"""A local run that is stopped ends quickly and leaves no process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.support.cli import CommandLine, marked
from tests.support.hostile import FOREIGN_ENVIRONMENT, hostile_folder
from tests.support.site import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def run(local_run: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """`rlhf run` with a temporary server, while a stage is running.  RLHF_TEST_MARK is the folder.

    It is started next to hostile files, with proxies and with variables of other launchers and servers.
    """
    for name, value in {**FOREIGN_ENVIRONMENT, "ALL_PROXY": "socks5://127.0.0.1:9"}.items():
        if name != "PREFECT_PROFILE":  # Prefect warns of one that does not exist
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("RLHF_TEST_MARK", str(tmp_path))
    command = CommandLine(tmp_path / "runs", local_run.home, folder=hostile_folder(tmp_path / "current"))
    with command.start("run", "quickstart", "--workspace", str(command.workspace)) as process:
        wait_for(lambda: process.poll() is not None or bool(stages(tmp_path)), 120, "a stage")
        assert process.poll() is None, process.communicate()
        yield process
        process.kill()


def stages(mark: Path) -> list[int]:
    """Ids of the stage processes."""
    return [process for process, words in marked(str(mark)).items() if "--output" in words]


def servers(mark: Path) -> list[int]:
    """Ids of the Prefect server's process, if it runs."""
    return [process for process, words in marked(str(mark)).items() if "gc_safe_server" in words]


def test_ctrl_c_is_one_line_and_leaves_no_process(run: subprocess.Popen[str], tmp_path: Path) -> None:
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: the process group, not only the command
    output, error = run.communicate(timeout=40)
    assert run.returncode == 130
    assert error == "stopped; run the same command again to resume\n"
    assert "Prefect UI of this run: http://127.0.0.1:" in output
    assert marked(str(tmp_path)) == {}


def test_a_killed_server_starts_again_and_a_kill_leaves_no_process_not_even_a_stopped_one(
    run: subprocess.Popen[str], tmp_path: Path
) -> None:
    [server] = servers(tmp_path)
    assert run.stdout is not None
    address = run.stdout.readline().removeprefix("Prefect UI of this run: ").strip()
    before = unfinished_runs(address)
    assert before
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: unfinished_runs(address) == [], 10, "the server to end")
    wait_for(lambda: unfinished_runs(address) == before, 90, "the run on the same port, from the same database")
    assert servers(tmp_path) != [server]

    for process in stages(tmp_path):
        os.kill(process, signal.SIGSTOP)
    run.kill()
    run.communicate()
    wait_for(lambda: marked(str(tmp_path)) == {}, 30, "its server and its stages to end")


def unfinished_runs(address: str) -> list[str]:
    """Ids of the unfinished runs of a server; none if it does not answer."""
    unfinished = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
    try:
        answer = httpx.post(f"{address}/api/flow_runs/filter", json=unfinished, trust_env=False)
    except httpx.TransportError:
        return []
    return sorted(str(run["id"]) for run in answer.json())


def listener_on(port: int) -> socket.socket:
    """A socket that takes the port of a server which is just ending."""
    taken: list[socket.socket] = []

    def take() -> bool:
        with suppress(OSError):
            taken.append(socket.create_server(("127.0.0.1", port)))
        return bool(taken)

    wait_for(take, 10, "the port of the killed server")
    return taken[0]


@pytest.mark.exhaustive
def test_a_server_that_cannot_start_again_ends_the_run_with_one_line(
    run: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert run.stdout is not None
    port = int(run.stdout.readline().rpartition(":")[2])
    [server] = servers(tmp_path)
    os.kill(server, signal.SIGKILL)
    with listener_on(port):  # nobody answers
        _, error = run.communicate(timeout=90)
    assert run.returncode == 2
    assert re.fullmatch(
        r"error: the Prefect server of this run ended 4 times; see .*server\.log; run .* resume\n", error
    )
    wait_for(lambda: marked(str(tmp_path)) == {}, 60, "every process to end")
