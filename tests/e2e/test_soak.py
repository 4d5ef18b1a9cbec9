"""Kills at random moments over the whole shrunk pipeline: no byte differs afterwards, and no process is left."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from uuid import UUID

import boto3
import pytest

from tests.support.cli import CommandLine, marked
from tests.support.s3_server import s3_server
from tests.support.site import (
    RUN_TIMEOUT_SECONDS,
    Site,
    artifact_hashes,
    artifact_hashes_in_s3,
    differing,
    is_final,
    site,
    wait_for,
)

LOCAL_KILLS = 50
POOL_KILLS = 20
LONGEST_PAUSE_SECONDS = 30.0
"""Kills are up to this far apart: a run of the shrunk pipeline is longer, none of its stages is."""
LEFT_SECONDS = 40
"""Time limit for the processes of a killed run to end."""
BUCKET = "models"
pytestmark = [pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.timeout(4 * 3600)]


def test_a_local_run_survives_kills_of_all_its_processes(
    local_run: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Server, stages, launchers, ranks and the command itself are killed; the command is given again until it ends."""
    monkeypatch.setenv("RLHF_TEST_MARK", str(tmp_path))
    command, draw = CommandLine(tmp_path / "runs", tmp_path / "prefect"), random.Random(1)
    undisturbed, log = artifact_hashes(local_run.workspace), tmp_path / "log.txt"
    kills: list[str] = []
    completed = 0
    while len(kills) < LOCAL_KILLS or not completed:
        with log.open("w") as output, command.start(*command.run_arguments(), log=output) as process:
            kill_at_random_moments(process, str(tmp_path), draw, kills)
        wait_for(lambda: marked(str(tmp_path)) == {}, LEFT_SECONDS, f"every process to end after {kills[-1:]}")
        assert "Traceback" not in log.read_text(), log.read_text()
        if process.returncode == 0:
            assert differing(artifact_hashes(command.workspace), undisturbed) == []
            completed += 1
            if len(kills) < LOCAL_KILLS:
                shutil.rmtree(command.workspace)
    assert command("verify", "--workspace", str(command.workspace)).code == 0


def kill_at_random_moments(process: subprocess.Popen[str], mark: str, draw: random.Random, kills: list[str]) -> None:
    """Kill a random process of a run again and again until the run has ended; appends the command lines to `kills`."""
    while process.poll() is None:
        if len(kills) >= LOCAL_KILLS:
            process.wait(RUN_TIMEOUT_SECONDS)
            return
        try:
            process.wait(draw.uniform(1, LONGEST_PAUSE_SECONDS))
        except subprocess.TimeoutExpired:
            pid, words = draw.choice(sorted(marked(mark).items()))
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            kills.append(words)
            print(f"kill {len(kills)}: {' '.join(words.split(chr(0)))[-150:]}", flush=True)


def test_two_machines_over_s3_survive_kills_of_all_their_processes(local_run: CommandLine, tmp_path: Path) -> None:
    """Stages, the pipeline's process, workers and the server are killed; what failed is retried as in the UI."""
    uri, draw, kills = f"s3://{BUCKET}/team/rlhf", random.Random(2), 0
    undisturbed = artifact_hashes(local_run.workspace)
    with s3_server(BUCKET), site(tmp_path, uri) as running:
        run = running.start_run()
        while True:
            ends = time.monotonic() + draw.uniform(1, LONGEST_PAUSE_SECONDS)
            while time.monotonic() < ends and not is_final(running.run(run)):
                time.sleep(0.5)
            state = running.run(run).state
            assert state is not None
            if state.is_completed():
                assert differing(artifact_hashes_in_s3(uri), undisturbed) == []
                if kills >= POOL_KILLS:
                    break
                empty_both_machines(running)
                run = running.start_run()
            elif state.is_final():
                running.retry(run)
            elif kills < POOL_KILLS:
                kills += kill_any(running, run, draw)
                print(f"kill {kills}", flush=True)
        wait_for(lambda: not running.processes(), LEFT_SECONDS, "every stage process to end")


def kill_any(running: Site, run: UUID, draw: random.Random) -> bool:
    """Kill a random process of the site, and start it again if it is a service; returns whether there was one."""
    services = {process.pid: name for name, process in running.services.running.items()}
    children = [process.pid for process in running.processes()] + running.flow_processes(run)
    pid = draw.choice(sorted([*services, *children]))
    if pid in services:
        name = services[pid]
        running.kill(name)
        if name == "server":
            running.start_server()
        else:
            running.start_worker(name.removeprefix("worker-"))
        return True
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def empty_both_machines(running: Site) -> None:
    """Remove everything that the finished run left in S3 and in the caches of the workers."""
    bucket = boto3.resource("s3").Bucket(BUCKET)
    bucket.objects.all().delete()
    for pool in ("cpu", "p4d"):
        shutil.rmtree(running.cache_of(pool), ignore_errors=True)
