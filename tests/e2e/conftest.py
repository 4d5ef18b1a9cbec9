"""Fixtures of the end-to-end tests."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess

import pytest

from tests.support.cli import CommandLine
from tests.support.stage_labels import STAGE_LABELS


def offline() -> tuple[str, ...]:
    """A command prefix that disables every network but loopback; empty if this user is not allowed to."""
    prefix = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    installed = shutil.which("unshare") and shutil.which("ip")
    if installed and subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode == 0:
        return prefix
    return ()


@pytest.fixture(scope="session")
def local_run(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """A command line whose workspace contains one finished run, from a machine without network and server.

    All test processes share it.  The first one creates it; tests that change the workspace use a copy.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    command = CommandLine(folder / "local" / "runs", folder / "local" / "prefect", offline())
    with (folder / "local.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "local").exists():
            outcome = command.run()
            assert outcome.code == 0, outcome.output + outcome.error
            assert "Did the model get better?" in outcome.output
            assert [stage["name"] for stage in command.results()["stages"]] == STAGE_LABELS
            assert not any(command.cached().values())
    return command
