"""The orchestrator's image has no torch: what it runs must import without."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
GONE = ("torch", "accelerate", "trl", "detoxify")
PathFinder.find_spec = lambda name, *place: None if name in GONE else find(name, *place)
import flows.cli, flows.pipeline, flows.stage, flows.human_labels, flows.server.deploy
import rlhf.stages.prepare_data, rlhf.stages.export_labeling_manifest
import rlhf.stages.aggregate_results, rlhf.stages.export_model
"""


@pytest.mark.slow
def test_flows_and_cpu_steps_import_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
