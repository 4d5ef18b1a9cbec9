"""Run the command line as a user does: in a separate process with its own PREFECT_HOME."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

SMALL = {
    "model.synthetic.documents": 600,
    "model.synthetic.hidden_size": 64,
    "model.synthetic.num_layers": 3,
    "model.synthetic.num_heads": 4,
    "data.synthetic_pairs": 400,
    "data.test_prompts": 10,
    "data.validation_prompts": 10,
    "sft.max_steps": 4,
    "reward.max_steps": 4,
    "ppo.steps": 2,
    "ppo.rollouts_per_step": 8,
    "ppo.minibatch_size": 4,
    "ppo.validate_every": 1,
    "toxicity.n_prompts": 20,
    "evaluation.best_of": 4,
    "compute.threads": 1,
}
"""Settings that shrink the quickstart to seconds."""


def set_arguments(settings: Mapping[str, object]) -> list[str]:
    """Arguments of --set: texts as they are, everything else as JSON, which is YAML."""
    return [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items()]


def free_port() -> int:
    """A port of this machine that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def marked(mark: str) -> dict[int, str]:
    """Command lines of the running processes that inherited `RLHF_TEST_MARK=mark`, by process id."""
    commands = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"RLHF_TEST_MARK={mark}".encode() in (folder / "environ").read_bytes():
                commands[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return commands


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of a finished command."""

    code: int
    output: str
    error: str


@dataclass(frozen=True)
class CommandLine:
    """`rlhf` with one workspace."""

    workspace: Path
    home: Path
    prefix: tuple[str, ...] = ()
    """Command that starts it, such as `unshare --net`."""
    server: str | None = None
    """Address of a Prefect server's API; if None, each run starts its own server."""
    folder: Path | None = None
    """The current folder, if it is not that of the tests."""

    def start(self, *arguments: str, log: IO[str] | None = None) -> subprocess.Popen[str]:
        """Start `rlhf ARGUMENTS` as the leader of a process group, as a terminal does; its output goes to `log`."""
        return subprocess.Popen(
            [*self.prefix, str(Path(sys.executable).with_name("rlhf")), *arguments],
            env=os.environ
            | {"PREFECT_HOME": str(self.home)}
            | ({"PREFECT_API_URL": self.server} if self.server else {}),
            cwd=self.folder,
            stdout=log or subprocess.PIPE,
            stderr=log or subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments: str, timeout: float = 900) -> Outcome:
        """Run `rlhf ARGUMENTS` to its end."""
        process = self.start(*arguments)
        try:
            output, error = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return Outcome(process.returncode, output, error)

    def run(self, profile: str = "quickstart", settings: Mapping[str, object] | None = None) -> Outcome:
        """Run the shrunk `profile` with more settings, by dotted name."""
        return self(*self.run_arguments(profile, settings))

    def run_arguments(self, profile: str = "quickstart", settings: Mapping[str, object] | None = None) -> list[str]:
        """Arguments of `rlhf` for a run of the shrunk `profile`."""
        overrides = [f"--set={override}" for override in set_arguments({**SMALL, **(settings or {})})]
        return ["run", profile, "--workspace", str(self.workspace), *overrides]

    def results(self, profile: str = "quickstart") -> dict[str, Any]:
        """The results that the last run published."""
        results = json.loads((self.workspace / profile / "results.json").read_bytes())
        assert isinstance(results, dict)
        return results

    def cached(self) -> dict[str, bool]:
        """Whether each stage of the last run was cached."""
        return {stage["name"]: stage["cached"] for stage in self.results()["stages"]}

    def artifact(self, stage: str) -> Path:
        """Folder of the only artifact of `stage`."""
        [folder] = (self.workspace / "artifacts" / stage).iterdir()
        return folder

    def artifact_of_last_run(self, label: str, profile: str = "quickstart") -> Path:
        """Folder of the artifact of a stage of the last run, by the label of the stage."""
        [row] = [stage for stage in self.results(profile)["stages"] if stage["name"] == label]
        return self.workspace / "artifacts" / label.partition("[")[0] / str(row["fingerprint"])
