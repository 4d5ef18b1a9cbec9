"""Runs stages as processes of their own, and kills them where a test asks."""

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
    """Runs stages as processes of their own that start at once, by forks of a process that has imported them.

    A context manager, behind which there are no more runs.
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
        """Run a stage: whether it came to its end before `kill_when`, asked all the time, had it killed.

        Its log is OUTPUT/log.txt; AssertionError with its last lines where it fails or takes too long.
        """
        answers = self._ask(
            module=module, request=str(request), output=str(output), processes=processes, port=free_port()
        )
        deadline = time.monotonic() + TIME_LIMIT_SECONDS
        killed = late = False
        while not (killed or late) and not select.select([answers], [], [], 0.002)[0]:
            killed, late = kill_when(), time.monotonic() > deadline
        if killed or late:
            print("kill", file=self.server.stdin, flush=True)
        code = int(answers.readline())
        assert code == 0 or (killed and code == -signal.SIGKILL), (code, (output / "log.txt").read_text()[-4000:])
        return code == 0

    def load(self, module: str) -> None:
        """Import a stage, so that its first run too starts at once."""
        assert int(self._ask(module=module, processes=0).readline()) == 0

    def _ask(self, **request: object) -> IO[str]:
        """Where the answer will be."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        print(json.dumps(request), file=self.server.stdin, flush=True)
        return self.server.stdout


def after(seconds: float) -> Callable[[], bool]:
    """Whether so many seconds have gone by from now on."""
    moment = time.monotonic() + seconds
    return lambda: time.monotonic() > moment


def undisturbed_and_killed(stages: Stages, module: str, request: Path, folder: Path) -> tuple[Path, Path]:
    """Outputs of a stage that nothing stopped, and of one killed at ten random moments and started again each time.

    The kills are spread over its life: at least three different sets of checkpoints are left.  A run that ended before
    its kill begins again from nothing.
    """
    whole, broken = folder / "whole", folder / "broken"
    stages.load(module)
    started = time.monotonic()
    assert stages.run(module, request, whole)
    seconds = time.monotonic() - started

    draws, killed = random.Random(0), 0
    left: set[frozenset[str]] = set()
    while killed < 10 or len(left) < 3:
        assert killed < 40, f"the kills left {left} only"
        reach = 0.8 * seconds * (1 + killed / 20)  # further each time: the machine may be slower than it was
        if stages.run(module, request, broken, kill_when=after(draws.uniform(0, reach))):
            shutil.rmtree(broken)
            continue
        assert not (broken / MANIFEST).exists()
        killed += 1
        left.add(frozenset(path.name for path in broken.glob(f"{CHECKPOINTS}/*")))
    assert stages.run(module, request, broken)
    return whole, broken


def assert_same_files(folder: Path, expected: Path) -> None:
    """The same files with the same bytes."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in expected.iterdir())
    for path in sorted(expected.iterdir()):
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name
