"""Starts a stage again and again without importing torch anew: each run is a fork, killed as any other process.

`python -m tests.fork_server MODULE` says `ready` after its imports, then reads `REQUEST OUTPUT SECONDS` lines; answers
each with the run's return code: it gets KILL after so many seconds.
"""

from __future__ import annotations

import importlib
import os
import runpy
import signal
import sys
import time
from pathlib import Path


def main(module: str) -> None:
    """Serve until the input ends."""
    importlib.import_module(module)  # so that a fork need not
    print("ready", flush=True)
    for line in sys.stdin:
        request, output, seconds = line.split()
        child = os.fork()
        if child == 0:
            run(module, request, Path(output))
        print(end_of(child, time.monotonic() + float(seconds)), flush=True)


def end_of(child: int, deadline: float) -> int:
    """The return code of `child`, which gets KILL at the deadline.  It is reaped here alone, so its id is its own."""
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(module: str, request: str, output: Path) -> None:
    """Be the stage; never returns."""
    output.mkdir(exist_ok=True)
    log = os.open(output / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.argv = [module, "--config", request, "--output", str(output)]
    code = 1
    try:
        runpy.run_module(module, run_name="__main__")
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1])
