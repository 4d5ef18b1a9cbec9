"""Runs stages as forks of one process, so that torch is imported only once.

`python -m tests.support.fork_server` reads one request per line, a JSON object: `module`, `request`, `output`, number
of `processes` and their rendezvous `port`.  It replies to each with the return code.  A line `kill` while a stage runs
sends SIGKILL to all of its processes.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import sys
from io import FileIO
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve requests until the input ends."""
    lines = FileIO(0)  # unbuffered, so that select() knows if there is another line
    while line := lines.readline():
        if line == b"kill\n":  # the stage had already ended
            continue
        request = json.loads(line)
        importlib.import_module(request["module"])  # before the fork
        children = {start(request, rank) for rank in range(request["processes"])}
        print(wait_for(children, lines), flush=True)


def wait_for(children: set[int], lines: FileIO) -> int:
    """Return 0, or the first other return code of a child; the other children are then killed."""
    code = 0
    while children:
        for child in sorted(children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                children.remove(child)
                code = code or os.waitstatus_to_exitcode(status)
        kill_line, _, _ = select.select([lines], [], [], 0.002)
        if kill_line:
            lines.readline()
        if kill_line or code:
            for child in children:  # only this function reaps them, so their ids cannot be reused
                os.kill(child, signal.SIGKILL)
    return code


def start(request: dict[str, Any], rank: int) -> int:
    """Fork a process that runs the stage, with the environment of its rank; returns the process id."""
    child = os.fork()
    if child:
        return child
    if request["processes"] > 1:
        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": request["processes"]}
        rendezvous = {
            "LOCAL_WORLD_SIZE": request["processes"],
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": request["port"],
        }
        os.environ.update({name: str(value) for name, value in {**world, **rendezvous}.items()})
    code = 1
    try:
        run(request["module"], request["request"], Path(request["output"]))
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def run(module: str, request: str, output: Path) -> None:
    """Run the stage in this process, with its output appended to its log."""
    output.mkdir(exist_ok=True)
    log = os.open(output / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.argv = [module, "--config", request, "--output", str(output)]
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main()
