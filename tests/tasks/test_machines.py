"""A stage on several machines: settings, command lines, and two launchers on the loopback interface."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from rlhf.config import SYNTHETIC, ComputeConfig, ModelConfig, SamplingConfig, ToxicityConfig
from rlhf.errors import UserError
from rlhf.profiles import load_profile
from rlhf.runtime.stage import StageInput, StageRequest
from rlhf.stage_config import ToxicityStage
from rlhf.storage.artifacts import MANIFEST
from tasks.launch import NO_CALLBACKS, StageCallbacks, StageJob, launch_stage, stage_command
from tests.support.cli import free_port
from tests.support.tiny_models import tiny_model


def toxicity_job(folder: Path, name: str, compute: ComputeConfig) -> StageJob:
    """24 continuations by a tiny model in chunks of 5."""
    policy = folder / "policy"
    if not policy.is_dir():
        tiny_model(policy / "model")
    config = ToxicityStage(
        seed=3,
        model=ModelConfig(path="given"),
        toxicity=ToxicityConfig(
            prompts=SYNTHETIC,
            classifier="profanity-check",
            n_prompts=24,
            batch_size=5,
            sampling=SamplingConfig(max_new_tokens=8),
        ),
    )
    return StageJob(
        label="score_toxicity[sft]",
        module="rlhf.stages.score_toxicity",
        code="",
        needs_gpu=True,
        offline=True,
        request=StageRequest(
            stage="score_toxicity",
            fingerprint="f" * 16,
            config=config.model_dump(mode="json"),
            inputs={"policy": StageInput(fingerprint="1" * 16, path=policy)},
        ),
        output=folder / name,
        compute=compute,
        tracker_folder=folder / "tracker",
    )


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_every_launcher_gets_the_address_of_machine_0(tmp_path: Path) -> None:
    compute = ComputeConfig(processes=16, machines=2, main_address="10.0.0.5", accelerate="fsdp")
    command = stage_command(toxicity_job(tmp_path, "out", compute), machine_rank=1)
    assert [option(command, f"--{name}") for name in ("num_processes", "num_machines", "machine_rank")] == [
        "16",
        "2",
        "1",
    ]
    assert (option(command, "--main_process_ip"), option(command, "--main_process_port")) == ("10.0.0.5", "29500")
    other_port = compute.model_copy(update={"main_address": "head:1234"})
    assert option(stage_command(toxicity_job(tmp_path, "out", other_port)), "--main_process_port") == "1234"
    one_machine = compute.model_copy(update={"machines": 1})
    assert "--num_machines" not in stage_command(toxicity_job(tmp_path, "out", one_machine))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"machines": 2, "processes": 2}, r"machines \(2\) need main_address"),
        ({"machines": 2, "processes": 3, "main_address": "a"}, r"compute.processes \(3\) must be a multiple of"),
        ({"machines": 2, "processes": 2, "main_address": "a", "gpu_pool": "p4d"}, r"cannot be combined with gpu_pool"),
    ],
)
def test_settings_that_cannot_work_are_rejected(settings: dict[str, object], message: str) -> None:
    overrides = [f"compute.{name}={value}" for name, value in settings.items()]
    batches = ["ppo.rollouts_per_step=48", "ppo.minibatch_size=48", "sft.batch_size=48", "reward.batch_size=48"]
    with pytest.raises(UserError, match=message):
        load_profile("quickstart", [*overrides, *batches])


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_machines_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    one = toxicity_job(tmp_path, "one", ComputeConfig(threads=1))
    launch_stage(one, NO_CALLBACKS)

    address = f"127.0.0.1:{free_port()}"
    compute = ComputeConfig(processes=2, machines=2, main_address=address, threads=1)
    others: list[subprocess.Popen[bytes]] = []

    def start_the_other(note: str) -> None:
        assert note.startswith("score_toxicity[sft] waits for machine 1. Run on machine 1: ")
        others.append(subprocess.Popen(shlex.split(note.partition("Run on machine 1: ")[2])))

    launch_stage(toxicity_job(tmp_path, "two", compute), StageCallbacks(lambda _progress: None, start_the_other))
    [other] = others
    assert other.wait(60) == 0
    assert (tmp_path / "two" / "continuations.jsonl").read_bytes() == (one.output / "continuations.jsonl").read_bytes()
    manifests = [json.loads((tmp_path / name / MANIFEST).read_text()) for name in ("one", "two")]
    assert [manifest["processes"] for manifest in manifests] == [1, 2]
    assert manifests[0]["files"] == manifests[1]["files"]
