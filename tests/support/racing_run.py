"""A run of one stage as a process of its own, for tests in which several runs meet.

`python -m tests.support.racing_run WORKSPACE` runs `waiting_stage` as the pipeline would, prints its notes and last
`done`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rlhf.config import ComputeConfig, RunConfig
from rlhf.runtime.stage import StageRequest
from rlhf.stage_config import ModelStage, part_of
from rlhf.storage.s3 import S3
from rlhf.storage.s3_store import open_store
from tasks.execute import execute_locally
from tasks.launch import RemoteWorkspace, StageCallbacks, StageJob, stop_stages_on_error
from tests.support.paths import ROOT
from tests.support.waiting_stage import CONTROL

STAGE, FINGERPRINT = "waiting_stage", "a" * 16


def racing_job(workspace: str) -> StageJob:
    """The job of `waiting_stage` in a workspace: a folder or s3://bucket/prefix."""
    store = open_store(workspace)
    cache = store.root.parent
    config = part_of(RunConfig(), ModelStage).model_dump(mode="json")
    return StageJob(
        label=STAGE,
        module="tests.support.waiting_stage",
        code="",
        needs_gpu=False,
        offline=True,
        request=StageRequest(stage=STAGE, fingerprint=FINGERPRINT, config=config, inputs={}),
        output=store.folder(STAGE, FINGERPRINT),
        compute=ComputeConfig(threads=1),
        tracker_folder=cache / "tracker",
        remote=RemoteWorkspace(uri=workspace, cache=cache) if workspace.startswith(S3) else None,
    )


def start_run(control: Path, workspace: str, **environment: str) -> subprocess.Popen[str]:
    """Start a run as a process, whose stage is controlled by files in the folder `control`."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.racing_run", workspace],
        cwd=ROOT,
        env=os.environ | {CONTROL: str(control), "PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        text=True,
    )


if __name__ == "__main__":
    with stop_stages_on_error():
        execute_locally(
            racing_job(sys.argv[1]),
            StageCallbacks(lambda _progress: None, lambda note: print(note, flush=True)),
        )
    print("done", flush=True)
