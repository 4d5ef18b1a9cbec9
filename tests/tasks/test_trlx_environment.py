"""How a stage of trlx is started: its interpreter, its launcher and what it can import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import rlhf
from rlhf.config import ComputeConfig
from rlhf.errors import UserError
from rlhf.profiles import load_profile
from rlhf.runtime.stage import StageRequest
from rlhf.stage_config import PpoStage, part_of
from rlhf.storage.fingerprints import fingerprint_stage
from tasks import stages, trlx_environment
from tasks.launch import NO_CALLBACKS, StageJob, launch_stage, stage_command, stop_stages_on_error


def job(module: str, **compute: object) -> StageJob:
    return StageJob(
        label="train_ppo",
        module=module,
        code="",
        environment="trlx" if module.endswith("_trlx") else "own",
        needs_gpu=True,
        offline=True,
        output=Path("out"),
        tracker_folder=Path("tracking"),
        compute=ComputeConfig.model_validate(compute),
        request=StageRequest(stage="train_ppo", fingerprint="0", config={}, inputs={}),
    )


def test_a_stage_of_trlx_runs_with_its_own_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.touch()
    monkeypatch.setenv("TRLX_PYTHON", str(python))
    assert stages.train_ppo.trlx_module == "rlhf.stages.train_ppo_trlx"
    assert stage_command(job(stages.train_ppo.trlx_module))[0] == str(python)
    assert stage_command(job(stages.train_ppo.module))[0] == sys.executable


def test_on_gpus_it_runs_with_the_published_deepspeed_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.touch()
    monkeypatch.setenv("TRLX_PYTHON", str(python))
    command = stage_command(job("rlhf.stages.train_ppo_trlx", accelerate="fsdp", processes=7))
    config = Path(command[command.index("--config_file") + 1])
    settings = yaml.safe_load(config.read_text())
    assert (settings["distributed_type"], settings["mixed_precision"]) == ("DEEPSPEED", "bf16")
    assert settings["deepspeed_config"]["zero_stage"] == 2
    assert settings["deepspeed_config"]["gradient_clipping"] == 1.0
    assert command[command.index("--num_processes") + 1] == "7"
    assert "--multi_gpu" not in command


def test_the_trainer_is_part_of_the_fingerprint() -> None:
    own, trlx = (part_of(load_profile("quickstart", [f"trainer={name}"]), PpoStage) for name in ("own", "trlx"))
    fingerprints = {fingerprint_stage("train_ppo", config, {}, "rlhf.stages.train_ppo") for config in (own, trlx)}
    assert len(fingerprints) == 2


def test_a_missing_environment_is_an_error_that_says_how_to_create_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRLX_PYTHON", str(tmp_path / "python"))
    with pytest.raises(UserError, match=r"TRLX_PYTHON \(.*python\) is not a file.*make trlx-env"):
        trlx_environment.trlx_python()
    monkeypatch.delenv("TRLX_PYTHON")
    monkeypatch.setattr(trlx_environment, "DEFAULT_PYTHON", tmp_path / "missing")
    with pytest.raises(
        UserError, match=r"trainer \(trlx\) has no environment.*make trlx-env.*trlx/requirements.txt.*trainer to own"
    ):
        trlx_environment.trlx_python()


def test_only_the_package_rlhf_can_be_imported_in_addition_to_its_libraries(tmp_path: Path) -> None:
    names = ("rlhf", "tasks", "flows", "deployments", "torch", "prefect")
    code = f"import importlib.util as u, json; print(json.dumps([bool(u.find_spec(name)) for name in {names}]))"
    with trlx_environment.import_path() as folder:
        done = subprocess.run(  # -S: without the libraries of this environment
            [sys.executable, "-S", "-c", code],
            env={"PYTHONPATH": str(folder)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert (folder / "rlhf" / "stages" / "train_ppo_trlx.py").is_file()
    assert json.loads(done.stdout) == [True, False, False, False, False, False]
    assert not folder.exists()
    assert Path(rlhf.__file__).is_file()  # removing the folder removes the link only


FAKE_PYTHON = """#!/bin/sh
ls "$PYTHONPATH" > "$RLHF_TEST_OUTPUT"
"""


def test_a_stage_of_trlx_gets_that_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    monkeypatch.setenv("TRLX_PYTHON", str(python))
    monkeypatch.setenv("RLHF_TEST_OUTPUT", str(tmp_path / "importable"))
    trlx_job = job("rlhf.stages.train_ppo_trlx").model_copy(update={"output": tmp_path / "artifact"})
    with stop_stages_on_error():
        launch_stage(trlx_job, NO_CALLBACKS)
    assert (tmp_path / "importable").read_text() == "rlhf\n"
