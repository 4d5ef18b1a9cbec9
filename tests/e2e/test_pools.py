"""The workflow on a server with two workers: where steps run, what Retry, Cancel and killed processes do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cli import CommandLine
from tests.e2e.site import CPU_STEPS, Site, site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site on which the shrunk quickstart has run once."""
    with site(tmp_path_factory.mktemp("site")) as made:
        state = made.ended(made.begin(), 600)
        assert state.is_completed(), state
        yield made


def contents(workspace: Path) -> dict[str, str]:
    """sha256 of every file of every finished artifact."""
    hashes = {}
    for path in sorted(workspace.glob("artifacts/*/*/manifest.json")):
        manifest = json.loads(path.read_bytes())
        hashes |= {f"{path.parent.relative_to(workspace)}/{name}": f["sha256"] for name, f in manifest["files"].items()}
    return hashes


TIMED = ("results.json", "report.html", "README.md")
"""Files that tell how long the steps took."""


def test_gpu_steps_run_on_their_pool_one_at_a_time_and_end_in_the_bytes_of_a_local_run(
    running: Site, tmp_path: Path
) -> None:
    assert {worker for module, worker in running.seen if module in CPU_STEPS} == {"worker-cpu"}
    assert {worker for module, worker in running.seen if module not in CPU_STEPS} == {"worker-p4d"}
    assert len({module for module, _ in running.seen}) >= 7
    assert running.most_gpu_jobs == 1
    local = CommandLine(tmp_path / "runs", tmp_path / "home")
    outcome = local.run()
    assert outcome.code == 0, outcome.error
    here, there = contents(local.workspace), contents(running.workspace)
    assert here.keys() == there.keys()
    assert {name for name in here if here[name] != there[name]} <= {name for name in here if name.endswith(TIMED)}
