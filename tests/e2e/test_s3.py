"""Two workers that share nothing but S3: the workflow completes, and a new machine finds it all cached."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf.storage.artifacts import MANIFEST
from rlhf.storage.s3 import Bucket
from tests.e2e.test_pools import TIMED, contents
from tests.support.cli import CommandLine
from tests.support.s3_server import s3_server
from tests.support.site import METRICS, Site, site, untimed

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.timeout(1800)]
URI = "s3://models/team/rlhf"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose workers have caches of their own, on which the shrunk quickstart has run once."""
    with s3_server("models"), site(tmp_path_factory.mktemp("site"), URI) as made:
        state = made.ended(made.begin())
        assert state.is_completed(), state
        yield made


def shared_contents() -> dict[str, str]:
    """sha256 of every file of every finished artifact in S3."""
    bucket = Bucket(URI)
    manifests = [name for name in bucket.sizes("artifacts") if name.endswith(f"/{MANIFEST}")]
    hashes: dict[str, str] = {}
    for name in manifests:
        content = bucket.read(f"artifacts/{name}")
        assert content is not None
        folder = f"artifacts/{name.removesuffix(f'/{MANIFEST}')}"
        hashes |= {f"{folder}/{file}": about["sha256"] for file, about in json.loads(content)["files"].items()}
    return hashes


def test_the_results_are_those_of_a_local_run_byte_for_byte(running: Site, local_run: CommandLine) -> None:
    made_by = {pool: {path.parts[-3] for path in made(running.cache_of(pool))} for pool in ("cpu", "p4d")}
    assert "train_ppo" in made_by["p4d"]
    assert "prepare_data" in made_by["cpu"]
    assert not running.workspace.exists()
    here, there = contents(local_run.workspace), shared_contents()
    assert here.keys() == there.keys()
    for name in [name for name in here if here[name] != there[name]]:
        if name.endswith(METRICS):
            content = Bucket(URI).read(name)
            assert content is not None
            assert untimed((local_run.workspace / name).read_bytes()) == untimed(content)
        else:
            assert name.endswith(TIMED), name
    assert {"report.html", "results.json", "config.json"} <= Bucket(URI).sizes("quickstart").keys()


def made(cache: Path) -> list[Path]:
    """Logs of the stages that ran on the machine with this cache."""
    return list(cache.glob("*/artifacts/*/*/log.txt"))


def fresh_cpu_worker(running: Site) -> None:
    """Put a machine that never saw the run in place of the one that ran it."""
    running.services.stop("worker-cpu")
    shutil.rmtree(running.cache_of("cpu"))
    shutil.rmtree(running.folder / "home-cpu")
    running.start_worker("cpu")


def test_a_machine_with_an_empty_cache_finds_everything_cached(running: Site) -> None:
    fresh_cpu_worker(running)
    run = running.begin()
    assert running.ended(run).is_completed()
    assert set(running.last_task_states(run).values()) == {"Cached"}
    assert made(running.cache_of("cpu")) == []


def test_only_what_is_missing_in_s3_is_made_again(running: Site) -> None:
    bucket = Bucket(URI)
    [manifest] = [name for name in bucket.sizes("artifacts/aggregate_results") if name.endswith(f"/{MANIFEST}")]
    bucket.remove([f"artifacts/aggregate_results/{manifest}"])
    run = running.begin()
    assert running.ended(run).is_completed()
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
    whole = bucket.read(f"artifacts/train_sft/{name}")
    assert whole is not None
    bucket.write(f"artifacts/train_sft/{name}", b"?" + whole[1:])
    found = verify()
    bucket.write(f"artifacts/train_sft/{name}", whole)
    assert found.returncode == 1
    assert f"{URI}/artifacts/train_sft/{name}: sha256 differs from the manifest" in found.stdout
