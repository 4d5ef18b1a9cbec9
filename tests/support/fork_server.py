"""Runs stages without importing torch anew: each of their processes is a fork, killed as any other.

`python -m tests.support.fork_server` reads requests, a JSON object a line: `module`, `request`, `output`, how many
`processes` and the `port` where they meet.  It answers each with the return code.  A line `kill` in between
gives KILL to every process of the stage.
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
    """Serve until the input ends."""
    lines = FileIO(0)  # reads no further than a line, so that select() tells whether there is another
    while line := lines.readline():
        if line == b"kill\n":  # what it was meant for had ended
            continue
        asked = json.loads(line)
        importlib.import_module(asked["module"])  # so that a fork need not
        children = {start(asked, rank) for rank in range(asked["processes"])}
        print(end_of(children, lines), flush=True)


def end_of(children: set[int], lines: FileIO) -> int:
    """The return code: 0 or the first other one of a child, behind which the others get KILL."""
    code = 0
    while children:
        for child in sorted(children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                children.remove(child)
                code = code or os.waitstatus_to_exitcode(status)
        asked_to, _, _ = select.select([lines], [], [], 0.002)
        if asked_to:
            lines.readline()
        if asked_to or code:
            for child in children:  # they are reaped here alone, so their ids are their own
                os.kill(child, signal.SIGKILL)
    return code


def start(asked: dict[str, Any], rank: int) -> int:
    """The id of a new process that is the stage, or one of several with what their launcher would tell them."""
    child = os.fork()
    if child:
        return child
    if asked["processes"] > 1:
        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": asked["processes"]}
        meeting = {"LOCAL_WORLD_SIZE": asked["processes"], "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": asked["port"]}
        os.environ.update({name: str(value) for name, value in {**world, **meeting}.items()})
    code = 1
    try:
        run(asked["module"], asked["request"], Path(asked["output"]))
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def run(module: str, request: str, output: Path) -> None:
    """Be the stage, with its output appended to its log."""
    output.mkdir(exist_ok=True)
    log = os.open(output / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.argv = [module, "--config", request, "--output", str(output)]
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main()
