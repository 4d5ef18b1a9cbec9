"""Child process groups: started so that they never outlive us, ended with a grace.

Linux gives the guarantee that a child gets TERM when we die by KILL; elsewhere a group ends when we end in order.
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
    """Start `command` as the leader of a process group of its own, both outputs to `output`."""
    dies_with_us = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
    return subprocess.Popen(
        [*dies_with_us, *command],
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
    """Send a signal to every process of the group; whether there was any.  Number 0 only asks."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def kill_after(process: subprocess.Popen[str], grace_seconds: float) -> None:
    """Wait until the group is gone, and send KILL to what is left of it after the grace."""
    deadline = time.monotonic() + grace_seconds
    while time.monotonic() < deadline and signal_group(process, 0):
        process.poll()  # a leader that nobody has waited for still counts as a member
        time.sleep(POLL_SECONDS)
    signal_group(process, signal.SIGKILL)
