"""The orchestrator's image has no torch, so what it runs must not import it."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT_WITHOUT_TORCH = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
MISSING = ("torch", "accelerate", "trl", "detoxify")
PathFinder.find_spec = lambda name, *rest: None if name in MISSING else find(name, *rest)
import flows.cli, flows.pipeline, flows.stage, flows.human_labels, flows.server.deploy, flows.server.undeploy
import rlhf.stages.prepare_data, rlhf.stages.export_labeling_manifest
import rlhf.stages.aggregate_results, rlhf.stages.export_model
"""


@pytest.mark.slow
def test_flows_and_cpu_stages_import_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
