"""Child process groups that do not outlive this process and get time to end.

On Linux a child gets SIGTERM even if this process is killed with SIGKILL.  On other systems a group is ended only if
this process exits normally.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import IO

POLL_SECONDS = 0.05


def start_group(
    command: list[str],
    environment: dict[str, str],
    *,
    output: int | IO[bytes],
    folder: Path | None = None,
) -> subprocess.Popen[str]:
    """Start `command` in a process group of its own; its standard output and standard error go to `output`."""
    dies_with_parent = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
    return subprocess.Popen(
        [*dies_with_parent, *command],
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def signal_group(process: subprocess.Popen[str], number: int) -> bool:
    """Send a signal to every process of the group; returns whether there is any.  Signal 0 only checks that."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def kill_after(process: subprocess.Popen[str], grace_seconds: float) -> None:
    """Wait until all processes of the group have ended; after `grace_seconds`, send SIGKILL to the rest."""
    deadline = time.monotonic() + grace_seconds
    while time.monotonic() < deadline and signal_group(process, 0):
        process.poll()  # a leader that has ended stays in the group until it is waited for
        time.sleep(POLL_SECONDS)
    signal_group(process, signal.SIGKILL)
