"""Runs one command and ends it, with every process that it started, as soon as the owner asks for it or has ended.

`python -I -S supervisor.py GRACE_SECONDS` reads the command from its standard input, a JSON list on one line.  The end
of that input is the end of the owner, whatever ended it.  The exit code is that of the command; if a signal ended the
command, the same signal ends the supervisor.

To end the command, its process group gets SIGTERM, and SIGCONT in case that it was stopped; after the grace every
process that it started gets SIGKILL, also one that has left the group, as the ranks of `accelerate launch` do.  If the
supervisor itself is killed, so is the command.  A file that stands alone: it imports no package, so nothing that a
user has installed or left in a folder can stop it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from collections import defaultdict

OWNER = 0
"""File descriptor whose end is the end of the owner."""
POLL_SECONDS = 0.05
SET_PARENT_DEATH_SIGNAL, SET_CHILD_SUBREAPER = 1, 36
"""Options of Linux's prctl.  With the second one, processes whose parents have ended become children of this one."""
CANNOT_START = 127
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> None:
    """Run the command to its end."""
    grace_seconds = float(sys.argv[1])
    command = json.loads(_first_line())
    _prctl(SET_CHILD_SUBREAPER, 1)
    signals, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)
    for number in (*STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(number, lambda _number, _frame: None)  # the number arrives in the pipe
    leader = _start(command)
    _exit_like(_follow(leader, signals, grace_seconds))


def _first_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(OWNER, 1)
        if not part:
            sys.exit(CANNOT_START)
        line += part
    return line


def _start(command: list[str]) -> int:
    """Start the command as the leader of a process group of its own, without standard input; returns its id."""
    supervisor = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # none may be lost between fork and exec
    leader = os.fork()
    if leader == 0:
        try:
            os.setpgid(0, 0)
            _prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            if os.getppid() == supervisor:
                os.dup2(os.open(os.devnull, os.O_RDONLY), OWNER)
                os.execvp(command[0], command)  # noqa: S606 the command of our caller, without a shell
        except OSError as error:
            os.write(2, f"cannot start {command[0]}: {error.strerror}\n".encode())
        os._exit(CANNOT_START)
    with contextlib.suppress(OSError):  # the child may have done it first
        os.setpgid(leader, leader)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    with contextlib.suppress(OSError):  # so that the reader of the output sees its end
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
    return leader


def _follow(leader: int, signals: int, grace_seconds: float) -> int:
    """Wait until the leader and every process that it started have ended; returns the leader's wait status."""
    status: int | None = None
    deadline: float | None = None
    owner_lives, ending = True, False
    while True:
        timeout = None if status is None and deadline is None else POLL_SECONDS
        ready, _, _ = select.select([signals, *([OWNER] if owner_lives else [])], [], [], timeout)
        received = os.read(signals, 64) if signals in ready else b""
        if OWNER in ready and not os.read(OWNER, 64):
            owner_lives = False
        asked = not owner_lives or any(number in received for number in STOP_SIGNALS)
        while (ended := _reap()) is not None:
            if ended[0] == leader:
                status = ended[1]
        rest = _descendants() if status is not None or deadline is not None or asked else []
        if status is not None and not rest:
            return status
        if asked and deadline is None:
            deadline = time.monotonic() + grace_seconds
            if status is None:
                _send([-leader], signal.SIGTERM)
            _send(rest, signal.SIGCONT)
        if status is not None and not ending:  # what the leader has left behind
            ending = True
            deadline = deadline or time.monotonic() + grace_seconds
            _send(rest, signal.SIGTERM)
            _send(rest, signal.SIGCONT)
        if deadline is not None and time.monotonic() > deadline:
            _send([*rest, *([-leader] if status is None else [])], signal.SIGKILL)


def _reap() -> tuple[int, int] | None:
    """Id and wait status of a child that has ended, if there is one."""
    try:
        ended, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (ended, status) if ended else None


def _descendants() -> list[int]:
    """Ids of the running processes below this one.  On systems other than Linux none are known."""
    if sys.platform != "linux":
        return []
    children = defaultdict(list)
    for name in os.listdir("/proc"):  # noqa: PTH208 numbers are enough
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stream:  # noqa: PTH123
                state, parent = stream.read().rpartition(b")")[2].split()[:2]
                if state not in (b"Z", b"X"):
                    children[int(parent)].append(int(name))
    found, unvisited = [], [os.getpid()]
    while unvisited:
        below = children[unvisited.pop()]
        found += below
        unvisited += below
    return found


def _send(processes: list[int], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _exit_like(status: int) -> None:
    """Exit with the code of the command, or end by the same signal, without a second memory dump."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
