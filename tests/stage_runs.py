"""Runs a stage as the orchestrator does, as a process of its own, on tiny inputs; and kills it where a test asks."""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rlhf.artifacts import CHECKPOINTS, MANIFEST
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


class ForkServer:
    """Runs of a stage as processes of their own that start at once."""

    def __init__(self, module: str) -> None:
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", module],
            env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self.server.stdout is not None
        assert self.server.stdout.readline() == "ready\n"

    def run(self, request: Path, output: Path, kill_after: float = math.inf) -> int:
        """The return code of a run, which gets KILL after so many seconds."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(f"{request} {output} {kill_after}\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def end(self) -> None:
        """No more runs."""
        self.server.communicate()


def undisturbed_and_killed(module: str, request: Path, folder: Path) -> tuple[Path, Path]:
    """Outputs of a stage that nothing stopped, and of one killed at ten random moments and started again each time.

    The kills are spread over its life: at least three different sets of checkpoints are left.  A run that ended before
    its kill begins again from nothing.
    """
    whole, broken = folder / "whole", folder / "broken"
    server = ForkServer(module)
    started = time.monotonic()
    assert server.run(request, whole) == 0, (whole / "log.txt").read_text()
    seconds = time.monotonic() - started

    draws, killed = random.Random(0), 0
    left: set[frozenset[str]] = set()
    while killed < 10 or len(left) < 3:
        assert killed < 40, f"the kills left {left} only"
        if server.run(request, broken, kill_after=draws.uniform(0, 0.8 * seconds)) == -signal.SIGKILL:
            assert not (broken / MANIFEST).exists()
            killed += 1
            left.add(frozenset(path.name for path in broken.glob(f"{CHECKPOINTS}/*")))
        else:
            shutil.rmtree(broken)
    assert server.run(request, broken) == 0, (broken / "log.txt").read_text()
    server.end()
    return whole, broken


def assert_same_files(folder: Path, expected: Path) -> None:
    """The same files with the same bytes."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in expected.iterdir())
    for path in sorted(expected.iterdir()):
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name
