"""Runs a stage as the orchestrator does, as a process of its own, on tiny inputs; and kills it where a test asks."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rlhf.config import Settings
from rlhf.stage import StageInput, StageRequest, write_jsonl
from tests.tiny_models import Architecture, tiny_model

WORDS = ["rice", "eggs", "lock", "sky", "blue", "air", "light", "red", "help", "cook", "fried"]
TIME_LIMIT_SECONDS = 300
ROOT = Path(__file__).parents[1]


def tiny_inputs(folder: Path, architecture: Architecture = "gptj") -> dict[str, Path]:
    """Artifacts of prepare_model and prepare_data, made up: 40 rows to train on, 11 held out, 10 prompts."""
    draw = random.Random(0)
    inputs = {"model": folder / "base", "data": folder / "data"}
    tiny_model(inputs["model"] / "model", architecture)
    inputs["data"].mkdir()

    def words() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(2, 6)))

    def rows(kind: str, count: int) -> list[dict[str, object]]:
        made: list[dict[str, object]] = []
        for number in range(count):
            good, bad = f" {words()}.", f" {words()}!"  # which one is better is in the last character
            prompt = f"\n\nHuman: {words()}?\n\nAssistant:"
            made.append({"id": f"{kind}-{number}", "prompt": prompt, "answer": good, "chosen": good, "rejected": bad})
        return made

    for name, count in (
        ("demonstrations", 40),
        ("validation_demonstrations", 11),
        ("preferences", 40),
        ("validation_preferences", 11),
        ("ppo_prompts", 5),
        ("validation_prompts", 3),
        ("test_prompts", 2),
    ):
        write_jsonl(inputs["data"] / f"{name}.jsonl", rows(name, count))
    return inputs


def write_request(path: Path, step: str, config: Settings, inputs: dict[str, Path]) -> Path:
    """Write the request for a stage to `path`; returns `path`."""
    request = StageRequest(
        step=step,
        fingerprint="0" * 16,
        config=config.model_dump(mode="json"),
        inputs={name: StageInput(fingerprint="1" * 16, path=given) for name, given in inputs.items()},
    )
    path.write_text(request.model_dump_json())
    return path


def run_stage(
    module: str,
    request: Path,
    output: Path,
    *,
    processes: int = 1,
    kill_when: Callable[[], bool] = lambda: False,
    python: str = sys.executable,
) -> subprocess.CompletedProcess[str]:
    """Run a stage to its end, or until `kill_when` says so: then every process of it gets KILL (return code -9)."""
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={processes}"]
    command = [python, *(launcher if processes > 1 else []), "-m", module]
    with subprocess.Popen(
        [*command, "--config", str(request), "--output", str(output)],
        # With --cpu, accelerate starts one process, however many are asked for.
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + TIME_LIMIT_SECONDS
        while process.poll() is None:
            if kill_when() or time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(0.001)
        out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def assert_resumes_to_the_same_bytes(
    module: str, request: Path, folder: Path, *, checkpoint_steps: tuple[int, int]
) -> None:
    """Kill `module` at three moments of its life; its last run must leave what an uninterrupted one leaves.

    `checkpoint_steps`: steps of a checkpoint in the first and in a later epoch.
    """
    whole, broken = folder / "whole", folder / "broken"
    assert run_stage(module, request, whole).returncode == 0

    early, late = (broken / "checkpoints" / f"checkpoint-{step}" for step in checkpoint_steps)
    moments: list[Callable[[], bool]] = [
        early.is_dir,  # while the first checkpoint is being written
        (late / "complete").is_file,
        (broken / "checkpoints" / "final").is_dir,  # while the model is being written
    ]
    for moment in moments:
        assert run_stage(module, request, broken, kill_when=moment).returncode == -signal.SIGKILL
        assert not (broken / "manifest.json").exists()
    assert run_stage(module, request, broken).returncode == 0

    for path in sorted((whole / "model").iterdir()):
        assert path.read_bytes() == (broken / "model" / path.name).read_bytes(), path.name
    assert _timeless_metrics(whole) == _timeless_metrics(broken)
    assert not (broken / "checkpoints").exists()


def _timeless_metrics(output: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "tokens_per_second"} for row in rows]
