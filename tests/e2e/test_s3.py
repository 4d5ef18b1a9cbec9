"""Two workers that share only S3: the pipeline completes, and on a new machine everything is cached."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf.storage.artifacts import MANIFEST
from rlhf.storage.s3 import Bucket
from tests.support.cli import CommandLine
from tests.support.s3_server import s3_server
from tests.support.site import Site, artifact_hashes, artifact_hashes_in_s3, differing, site

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.timeout(1800)]
URI = "s3://models/team/rlhf"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose workers have separate caches, on which the shrunk quickstart has run once."""
    with s3_server("models"), site(tmp_path_factory.mktemp("site"), URI) as running_site:
        state = running_site.wait_until_final(running_site.start_run())
        assert state.is_completed(), state
        yield running_site


def test_artifacts_are_byte_equal_to_those_of_a_local_run(running: Site, local_run: CommandLine) -> None:
    stages_of = {pool: {path.parts[-3] for path in stage_logs(running.cache_of(pool))} for pool in ("cpu", "p4d")}
    assert "train_ppo" in stages_of["p4d"]
    assert "prepare_data" in stages_of["cpu"]
    assert not running.workspace.exists()
    assert differing(artifact_hashes_in_s3(URI), artifact_hashes(local_run.workspace)) == []
    assert {"report.html", "results.json", "config.json"} <= Bucket(URI).sizes("quickstart").keys()


def stage_logs(cache: Path) -> list[Path]:
    """Logs of the stages that ran on the machine with this cache."""
    return list(cache.glob("*/artifacts/*/*/log.txt"))


def fresh_cpu_worker(running: Site) -> None:
    """Replace the machine of the CPU worker with one whose cache is empty."""
    running.services.stop("worker-cpu")
    shutil.rmtree(running.cache_of("cpu"))
    shutil.rmtree(running.folder / "home-cpu")
    running.start_worker("cpu")


def test_everything_is_cached_on_a_machine_with_an_empty_cache(running: Site) -> None:
    fresh_cpu_worker(running)
    run = running.start_run()
    assert running.wait_until_final(run).is_completed()
    assert set(running.last_task_states(run).values()) == {"Cached"}
    assert stage_logs(running.cache_of("cpu")) == []


def test_only_artifacts_missing_in_s3_are_rebuilt(running: Site) -> None:
    bucket = Bucket(URI)
    [manifest] = [name for name in bucket.sizes("artifacts/aggregate_results") if name.endswith(f"/{MANIFEST}")]
    bucket.remove([f"artifacts/aggregate_results/{manifest}"])
    run = running.start_run()
    assert running.wait_until_final(run).is_completed()
    states = running.last_task_states(run)
    assert {name for name, state in states.items() if state != "Cached"} == {"aggregate_results"}, states


def test_verify_reads_every_byte_in_s3(running: Site) -> None:
    def verify() -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("rlhf")), "verify", "--workspace", URI]
        environment = os.environ | {"RLHF_CACHE": str(running.folder / "cache-cli")}
        return subprocess.run(command, env=environment, check=False, capture_output=True, text=True)

    assert verify().returncode == 0
    bucket = Bucket(URI)
    [name] = [name for name in bucket.sizes("artifacts/train_sft") if name.endswith("metrics.jsonl")]
    intact = bucket.read(f"artifacts/train_sft/{name}")
    assert intact is not None
    bucket.write(f"artifacts/train_sft/{name}", b"?" + intact[1:])
    verified = verify()
    bucket.write(f"artifacts/train_sft/{name}", intact)
    assert verified.returncode == 1
    assert f"{URI}/artifacts/train_sft/{name}: sha256 differs from the manifest" in verified.stdout
