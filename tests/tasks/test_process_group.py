"""No process outlives its owner or its command: not if it is stopped, deaf to SIGTERM or in a session of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.process_group import ask_to_end, start_group, wait_for_end

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's subreapers")

OWNER = """
import os, sys, time
from pathlib import Path
from tasks.process_group import start_group
start_group([sys.executable, "-c", Path(sys.argv[1]).read_text(), sys.argv[2]], dict(os.environ), output=1,
            grace_seconds=float(sys.argv[3]))
time.sleep(600)
"""
WRITE_ID = """
import os, signal, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def write(name):
    (folder / "writing").write_text(str(os.getpid()))
    (folder / "writing").rename(folder / name)
"""
PLAIN = WRITE_ID + "write('command'); time.sleep(600)\n"
DEAF = WRITE_ID + "signal.signal(signal.SIGTERM, signal.SIG_IGN); write('command'); time.sleep(600)\n"
SAVING = WRITE_ID + (
    "def save(*_):\n    time.sleep(0.5); write('saved'); sys.exit()\n"
    "signal.signal(signal.SIGTERM, save); write('command'); time.sleep(600)\n"
)
RANK = WRITE_ID + "signal.signal(signal.SIGTERM, signal.SIG_IGN); write('rank'); time.sleep(600)\n"
LAUNCHER = WRITE_ID + (
    f"subprocess.Popen([sys.executable, '-c', {RANK!r}, sys.argv[1]], start_new_session=True)\n"
    "write('command'); time.sleep(600)\n"
)


def is_alive(pid: int) -> bool:
    """Whether a process runs or is stopped."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


class Owned:
    """A command whose owner is a process of its own; ids of its processes are in files of `folder`."""

    def __init__(self, code: str, folder: Path, grace_seconds: float) -> None:
        self.folder = folder
        (folder / "code.py").write_text(code)
        self.owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(folder / "code.py"), str(folder), str(grace_seconds)]
        )
        self.command = self.id_of("command")

    def id_of(self, name: str) -> int:
        """Process id that the process `name` has written."""
        wait_until((self.folder / name).exists, 30)
        return int((self.folder / name).read_text())

    def kill_owner(self) -> None:
        """What nobody can handle."""
        self.owner.kill()
        self.owner.wait()


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[Callable[..., Owned]]:
    """Starts commands with owners; kills what a test leaves."""
    started: list[Owned] = []

    def start(code: str, grace_seconds: float = 0.5) -> Owned:
        started.append(Owned(code, tmp_path, grace_seconds))
        return started[-1]

    yield start
    for each in started:
        each.kill_owner()
        for name in ("command", "rank"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((tmp_path / name).read_text()), signal.SIGKILL)


def test_a_stopped_command_does_not_outlive_its_killed_owner(owned: Callable[..., Owned]) -> None:
    each = owned(PLAIN, grace_seconds=30)
    os.kill(each.command, signal.SIGSTOP)
    each.kill_owner()
    wait_until(lambda: not is_alive(each.command), 5)  # by SIGTERM, long before the grace ends


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace(owned: Callable[..., Owned]) -> None:
    each = owned(DEAF)
    each.kill_owner()
    wait_until(lambda: not is_alive(each.command))


def test_a_command_of_a_killed_owner_gets_time_to_save(owned: Callable[..., Owned]) -> None:
    each = owned(SAVING, grace_seconds=30)
    each.kill_owner()
    assert each.id_of("saved") == each.command
    wait_until(lambda: not is_alive(each.command))


@pytest.mark.parametrize("killed", ["owner", "launcher"])
def test_a_stopped_rank_in_a_session_of_its_own_does_not_outlive(owned: Callable[..., Owned], killed: str) -> None:
    each = owned(LAUNCHER)
    rank = each.id_of("rank")
    os.kill(rank, signal.SIGSTOP)
    if killed == "owner":
        each.kill_owner()
    else:
        os.kill(each.command, signal.SIGKILL)
    wait_until(lambda: not is_alive(rank) and not is_alive(each.command))


def test_the_command_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    process = start_group(
        [sys.executable, "-c", DEAF, str(tmp_path)], os.environ, output=subprocess.DEVNULL, grace_seconds=30
    )
    wait_until((tmp_path / "command").exists)
    process.kill()
    process.wait()
    wait_until(lambda: not is_alive(int((tmp_path / "command").read_text())))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_the_exit_code_is_that_of_the_command(number: int) -> None:
    code = f"import os; os.kill(os.getpid(), {number})"
    process = start_group([sys.executable, "-c", code], os.environ, output=subprocess.DEVNULL, grace_seconds=1)
    assert process.wait(20) == -number


def test_a_command_that_cannot_start_says_so() -> None:
    process = start_group(["/no/such/program"], os.environ, output=subprocess.PIPE, grace_seconds=1)
    assert process.stdout is not None
    assert process.stdout.read() == "cannot start /no/such/program: No such file or directory\n"
    assert process.wait(20) == 127


def test_the_output_ends_with_the_command_and_its_standard_input_is_empty() -> None:
    process = start_group(
        [sys.executable, "-c", "import sys; print(repr(sys.stdin.read()))"],
        os.environ,
        output=subprocess.PIPE,
        grace_seconds=1,
    )
    assert process.stdout is not None
    assert process.stdout.read() == "''\n"
    assert process.wait(20) == 0


def test_a_command_that_is_asked_to_end_while_it_starts_ends() -> None:
    for delay in (0.0, 0.01, 0.02, 0.04, 0.06):
        process = start_group(["sleep", "600"], os.environ, output=subprocess.DEVNULL, grace_seconds=30)
        time.sleep(delay)
        ask_to_end(process)
        started = time.monotonic()
        wait_for_end(process, 30)
        assert time.monotonic() - started < 10
        assert process.returncode == -signal.SIGTERM
