"""Runs stages as separate processes, and kills them when a test asks for it."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Self

from rlhf.storage.artifacts import CHECKPOINTS, MANIFEST
from tests.support.cli import free_port
from tests.support.paths import ROOT

TIME_LIMIT_SECONDS = 300


class Stages:
    """Runs stages as separate processes that start immediately: forks of a server that has imported the stages.

    A context manager, which ends the server.
    """

    def __init__(self, python: str = sys.executable) -> None:
        self.server = subprocess.Popen(
            [python, "-m", "tests.support.fork_server"],
            env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "ACCELERATE_USE_CPU": "true"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.communicate()

    def run(
        self,
        module: str,
        request: Path,
        output: Path,
        *,
        processes: int = 1,
        kill_when: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Run a stage and kill it as soon as `kill_when`, which is polled, is true; returns whether it finished.

        Its log is OUTPUT/log.txt.  Raises AssertionError with its last lines if the stage fails or takes too long.
        """
        replies = self._send(
            module=module, request=str(request), output=str(output), processes=processes, port=free_port()
        )
        deadline = time.monotonic() + TIME_LIMIT_SECONDS
        stopped = late = False
        while not (stopped or late) and not select.select([replies], [], [], 0.002)[0]:
            stopped, late = kill_when(), time.monotonic() > deadline
        if stopped or late:
            print("kill", file=self.server.stdin, flush=True)
        code = int(replies.readline())
        assert code == 0 or (stopped and code == -signal.SIGKILL), (code, (output / "log.txt").read_text()[-4000:])
        return code == 0

    def load(self, module: str) -> None:
        """Import a stage, so that its first run starts immediately too."""
        assert int(self._send(module=module, processes=0).readline()) == 0

    def _send(self, **request: object) -> IO[str]:
        """Send a request to the server; returns the stream on which it replies."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        print(json.dumps(request), file=self.server.stdin, flush=True)
        return self.server.stdout


def after(seconds: float) -> Callable[[], bool]:
    """A function that says whether `seconds` have passed since this call."""
    moment = time.monotonic() + seconds
    return lambda: time.monotonic() > moment


def undisturbed_and_killed(stages: Stages, module: str, request: Path, folder: Path) -> tuple[Path, Path]:
    """Output folders of an undisturbed run, and of one that is killed at ten random moments and restarted each time.

    Kills are spread over the run: they leave at least three different sets of checkpoints.  A run that finishes before
    its kill starts again from an empty folder.
    """
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    stages.load(module)
    started = time.monotonic()
    assert stages.run(module, request, undisturbed)
    seconds = time.monotonic() - started

    generator, kills = random.Random(0), 0
    leftovers: set[frozenset[str]] = set()
    while kills < 10 or len(leftovers) < 3:
        assert kills < 40, f"the kills left only {leftovers}"
        latest = 0.8 * seconds * (1 + kills / 20)  # later each time, because the machine may become slower
        if stages.run(module, request, killed, kill_when=after(generator.uniform(0, latest))):
            shutil.rmtree(killed)
            continue
        assert not (killed / MANIFEST).exists()
        kills += 1
        leftovers.add(frozenset(path.name for path in killed.glob(f"{CHECKPOINTS}/*")))
    assert stages.run(module, request, killed)
    return undisturbed, killed


def assert_same_files(folder: Path, expected: Path) -> None:
    """Assert that both folders contain the same files with the same bytes."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in expected.iterdir())
    for path in sorted(expected.iterdir()):
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name
