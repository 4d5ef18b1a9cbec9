"""A local run that is stopped ends quickly and leaves no process."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import CommandLine, marked
from tests.support.site import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def run(local_run: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """`rlhf run` with a temporary server, while a stage is running.  RLHF_TEST_MARK is the folder."""
    monkeypatch.setenv("RLHF_TEST_MARK", str(tmp_path))
    command = CommandLine(tmp_path / "runs", local_run.home)
    with command.start("run", "quickstart", "--workspace", str(command.workspace)) as process:
        wait_for(lambda: any("--output" in words for words in marked(str(tmp_path)).values()), 120, "a stage")
        yield process
        process.kill()


def test_ctrl_c_is_one_line_and_leaves_no_process(run: subprocess.Popen[str], tmp_path: Path) -> None:
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: the process group, not only the command
    output, error = run.communicate(timeout=40)
    assert run.returncode == 130
    assert error == "stopped; run the same command again to resume\n"
    assert "Prefect UI of this run: http://127.0.0.1:" in output
    assert marked(str(tmp_path)) == {}


def test_kill_leaves_no_process(run: subprocess.Popen[str], tmp_path: Path) -> None:
    run.kill()
    run.communicate()
    wait_for(lambda: marked(str(tmp_path)) == {}, 30, "its server and its stages to end")
