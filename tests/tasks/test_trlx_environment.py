"""Which python runs a stage of trlx, and under what."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from rlhf.config import ComputeConfig
from rlhf.errors import UserError
from rlhf.profiles import load_profile
from rlhf.runtime.stage import StageRequest
from rlhf.stage_config import PpoStage, part_of
from rlhf.storage.fingerprints import fingerprint_stage
from tasks import stages, trlx_environment
from tasks.launch import StageJob, stage_command


def job(module: str, **compute: object) -> StageJob:
    return StageJob(
        label="train_ppo",
        module=module,
        environment="trlx" if module.endswith("_trlx") else "own",
        accelerator=True,
        offline=True,
        output=Path("out"),
        tracker_folder=Path("tracking"),
        compute=ComputeConfig.model_validate(compute),
        request=StageRequest(stage="train_ppo", fingerprint="0", config={}, inputs={}),
    )


def test_a_stage_of_trlx_runs_by_its_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.touch()
    monkeypatch.setenv("TRLX_PYTHON", str(python))
    assert stages.train_ppo.trlx_module == "rlhf.stages.train_ppo_trlx"
    assert stage_command(job(stages.train_ppo.trlx_module))[0] == str(python)
    assert stage_command(job(stages.train_ppo.module))[0] == sys.executable


def test_on_gpus_it_runs_under_the_published_deepspeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    made = {fingerprint_stage("train_ppo", config, {}, "rlhf.stages.train_ppo") for config in (own, trlx)}
    assert len(made) == 2


def test_without_its_environment_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRLX_PYTHON", str(tmp_path / "python"))
    with pytest.raises(UserError, match=r"TRLX_PYTHON \(.*python\) is no file.*make trlx-env"):
        trlx_environment.trlx_python()
    monkeypatch.delenv("TRLX_PYTHON")
    monkeypatch.setattr(trlx_environment, "BUILT", tmp_path / "built")
    with pytest.raises(UserError, match=r"no environment for it.*make trlx-env.*trainer to own"):
        trlx_environment.trlx_python()
