"""Child processes that do not outlive this process, get time to end, and leave none of their own children behind.

Each has a supervisor (`tasks/supervisor.py`), which ends it also if this process is killed with SIGKILL.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

SUPERVISOR = Path(__file__).with_name("supervisor.py")
MARGIN_SECONDS = 10.0
"""How long a supervisor may take to end, in addition to the grace of its command."""


def start_group(
    command: list[str],
    environment: Mapping[str, str],
    *,
    output: int | IO[bytes],
    grace_seconds: float,
    folder: Path | None = None,
) -> subprocess.Popen[str]:
    """Start `command` under a supervisor; its standard output and standard error go to `output`.

    Returns the supervisor, which ends after the last process that the command has started, with the exit code of the
    command.  `grace_seconds` is the time between SIGTERM and SIGKILL.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(SUPERVISOR), str(grace_seconds)],
        env=environment,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # a supervisor that was killed at once; its exit code says so
        process.stdin.write(json.dumps(command) + "\n")
        process.stdin.flush()
    return process


def ask_to_end(process: subprocess.Popen[str]) -> None:
    """Send SIGTERM to the command.  Returns at once; the supervisor ends what is left after the grace."""
    for number in (signal.SIGTERM, signal.SIGCONT):
        process.send_signal(number)


def wait_for_end(process: subprocess.Popen[str], grace_seconds: float) -> None:
    """Wait until a command that was asked to end has ended, and all that it had started."""
    try:
        process.wait(grace_seconds + MARGIN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # a supervisor that is stuck; its command is killed with it
        process.wait()
