"""The launcher follows a stage, tells user errors from bugs, and leaves no process running."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import deployments
import rlhf
from rlhf.config import ComputeConfig
from rlhf.errors import UserError
from rlhf.runtime.stage import StageRequest
from tasks.launch import (
    NO_CALLBACKS,
    StageCallbacks,
    StageFailedError,
    StageJob,
    launch_stage,
    run_process,
    stage_command,
    stage_environment,
    stop_stages_on_error,
)
from tasks.messages import Progress
from tests.support.hostile import FOREIGN_ENVIRONMENT, hostile_folder


class Recorder:
    """Records the progress and the notes of a stage."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.notes: list[str] = []

    def callbacks(self) -> StageCallbacks:
        return StageCallbacks(self.progress.append, self.notes.append)


def run_code(code: str, output: Path, callbacks: StageCallbacks = NO_CALLBACKS) -> None:
    run_process([sys.executable, "-c", code], output, dict(os.environ), callbacks)


def test_progress_and_notes_reach_the_callbacks_and_other_output_is_logged(tmp_path: Path) -> None:
    recorder = Recorder()
    run_code(
        "import os\n"
        """print('@progress {"phase": "p", "done": 1, "total": 2, "metrics": {"loss": 0.5}}')\n"""
        """print('@note "half done"')\n"""
        "print('@note not json')\n"
        "print('a line')\n",
        tmp_path,
        recorder.callbacks(),
    )
    assert recorder.progress == [Progress("p", 1, 2, {"loss": 0.5})]
    assert recorder.notes == ["half done"]
    assert (tmp_path / "log.txt").read_text() == "@note not json\na line\n"


def test_an_error_that_the_user_can_fix_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^fix this$"):
        run_code("""print('@error {"kind": "input", "message": "fix this"}'); raise SystemExit(2)""", tmp_path)


def test_any_other_error_quotes_the_end_of_the_log(tmp_path: Path) -> None:
    with pytest.raises(StageFailedError) as raised:
        run_code("import sys\nfor i in range(50): print('line', i)\nsys.exit(3)", tmp_path)
    message = str(raised.value)
    assert "exit code 3" in message
    assert "line 49" in message
    assert "line 29\n" not in message
    assert str(tmp_path / "log.txt") in message


def test_the_error_of_a_killed_stage_names_the_signal(tmp_path: Path) -> None:
    with pytest.raises(StageFailedError, match="killed by SIGKILL"):
        run_code("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_the_error_of_a_killed_rank_names_the_signal_without_the_trace_of_its_launcher(
    tmp_path: Path, processes: int
) -> None:
    script = tmp_path / "script.py"
    script.write_text("import os, signal\nprint('a line')\nos.kill(os.getpid(), signal.SIGKILL)\n")
    config = deployments.path_of("accelerate") / "cpu.yaml"
    launcher = ["accelerate.commands.launch", "--config_file", str(config), "--num_processes", str(processes)]
    multiple = ["--multi_gpu"] if processes > 1 else []  # as stage_command
    with pytest.raises(StageFailedError) as raised:
        run_process([sys.executable, "-m", *launcher, *multiple, str(script)], tmp_path, dict(os.environ), NO_CALLBACKS)
    assert str(raised.value).startswith("the stage was killed by SIGKILL, often because memory ran out\n")
    assert "Traceback" not in str(raised.value)
    assert "CalledProcessError" in (tmp_path / "log.txt").read_text() or processes > 1


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(condition: object, seconds: float = 10.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


GRANDCHILD = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(f'@note \"{child.pid}\"', flush=True)\n"
)


def test_grandchildren_end_with_the_stage(tmp_path: Path) -> None:
    recorder = Recorder()
    run_code(GRANDCHILD + "import os; os._exit(0)", tmp_path, recorder.callbacks())
    wait_for(lambda: not is_alive(int(recorder.notes[0])))


def test_an_error_in_the_pipeline_ends_running_stages(tmp_path: Path) -> None:
    recorder = Recorder()
    failures: list[BaseException] = []

    def follow() -> None:
        try:
            run_code(GRANDCHILD + "time.sleep(600)", tmp_path, recorder.callbacks())
        except StageFailedError as error:
            failures.append(error)

    thread = threading.Thread(target=follow)

    def interrupted() -> None:
        with stop_stages_on_error():
            thread.start()
            wait_for(lambda: recorder.notes)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    thread.join(10)
    assert not thread.is_alive()
    assert "SIGTERM" in str(failures[0])
    wait_for(lambda: not is_alive(int(recorder.notes[0])))


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are a feature of Linux")
def test_a_stage_ends_when_its_orchestrator_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from tasks.launch import StageCallbacks, run_process\n"
        "run_process([sys.executable, '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'],\n"
        f"  Path({str(tmp_path)!r}), dict(os.environ), StageCallbacks(print, print))\n"
    )
    orchestrator = subprocess.Popen([sys.executable, "-c", code])
    log = tmp_path / "log.txt"
    wait_for(lambda: log.exists() and log.read_text().endswith("\n"), 30)
    stage = int(log.read_text())
    assert is_alive(stage)
    orchestrator.kill()
    orchestrator.wait()
    wait_for(lambda: not is_alive(stage))


STAND_IN = """
import json, os, sys, time
output = sys.argv[sys.argv.index("--output") + 1]
print('@note "in"', flush=True)
time.sleep(0.3)
names = ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "RLHF_TEST_VARIABLE", "RLHF_TRACKER", "RLHF_TRACKER_FOLDER")
with open(output + "/seen.json", "w") as seen:
    json.dump({name: os.environ.get(name) for name in names}, seen)
print('@note "out"')
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StageJob]:
    """A job whose module records its environment variables."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with stop_stages_on_error():
        yield StageJob(
            label="train_sft",
            module="stand_in",
            code="",
            needs_gpu=False,
            offline=True,
            request=StageRequest(stage="train_sft", fingerprint="f", config={"seed": 1}, inputs={}),
            output=tmp_path / "artifact",
            compute=ComputeConfig(threads=3, tracker="tensorboard"),
            tracker_folder=tmp_path / "run" / "tracker" / "train_sft",
        )


def test_a_job_gets_its_request_and_its_environment(job: StageJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_TEST_VARIABLE", "inherited")
    launch_stage(job, NO_CALLBACKS)
    seen = json.loads((job.output / "seen.json").read_text())
    assert seen == {
        "OMP_NUM_THREADS": "3",
        "HF_HUB_OFFLINE": "1",
        "RLHF_TEST_VARIABLE": "inherited",
        "RLHF_TRACKER": "tensorboard",
        "RLHF_TRACKER_FOLDER": str(job.tracker_folder),
    }
    assert StageRequest.model_validate_json((job.output / "request.json").read_text()) == job.request


def test_parallel_stages_limits_the_stages_that_run_at_once(job: StageJob) -> None:
    running: list[int] = []
    counts: list[int] = []

    def follow(number: int) -> None:
        def note(message: str) -> None:
            running.append(number) if message == "in" else running.remove(number)
            counts.append(len(running))

        launch_stage(job, StageCallbacks(lambda _progress: None, note))

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(counts) == 6
    assert max(counts) == 1


def test_gpu_stages_are_started_by_accelerate(job: StageJob) -> None:
    on_gpu = job.model_copy(update={"needs_gpu": True, "compute": ComputeConfig(processes=4, threads=1)})
    command = stage_command(on_gpu)
    assert command[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert command[command.index("--num_processes") + 1] == "4"
    assert Path(command[command.index("--config_file") + 1]).is_file()
    assert "--multi_gpu" in command
    sharded = on_gpu.model_copy(update={"compute": ComputeConfig(accelerate="fsdp", processes=8)})
    assert "--multi_gpu" not in stage_command(sharded)  # it would override the configuration
    assert stage_command(job)[:3] == [sys.executable, "-m", "stand_in"]


def test_a_stage_runs_the_code_of_its_fingerprint_or_not_at_all(tmp_path: Path) -> None:
    shutil.copytree(Path(rlhf.__file__).parent, tmp_path / "rlhf", ignore=shutil.ignore_patterns("__pycache__"))
    environment = stage_environment(os.environ | {"PYTHONPATH": str(tmp_path)})
    request = StageRequest(stage="export_model", fingerprint="f", config={}, inputs={})
    (tmp_path / "request.json").write_text(request.model_dump_json())
    arguments = ["--config", str(tmp_path / "request.json"), "--output", str(tmp_path / "artifact")]
    command = [sys.executable, "-m", "rlhf.stages.export_model", *arguments]
    with pytest.raises(UserError, match=rf"^the stage would run the code in {tmp_path}/rlhf, but .* PYTHONPATH$"):
        run_process(command, tmp_path, environment, NO_CALLBACKS)


def test_a_signal_without_name_is_told_by_its_number(tmp_path: Path) -> None:
    with pytest.raises(StageFailedError, match=f"killed by signal {signal.SIGRTMIN + 1}"):
        run_code("import os, signal; os.kill(os.getpid(), signal.SIGRTMIN + 1)", tmp_path)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hostile modules in the current folder, and an environment that others have left."""
    monkeypatch.chdir(hostile_folder(tmp_path / "current"))
    for name, value in FOREIGN_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("hostile")
def test_a_stage_imports_nothing_from_the_current_folder(job: StageJob) -> None:
    launch_stage(job, NO_CALLBACKS)
    assert (job.output / "seen.json").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("hostile")
def test_accelerate_starts_the_configured_number_of_processes(job: StageJob, tmp_path: Path) -> None:
    (tmp_path / "stand_in.py").write_text(
        "import os, sys\noutput = sys.argv[sys.argv.index('--output') + 1]\n"
        "open(output + '/rank' + os.environ['RANK'], 'w').write(os.environ['WORLD_SIZE'])\n"
    )
    launch_stage(
        job.model_copy(update={"needs_gpu": True, "compute": ComputeConfig(processes=2, threads=1)}),
        NO_CALLBACKS,
    )
    assert {path.name: path.read_text() for path in job.output.glob("rank*")} == {"rank0": "2", "rank1": "2"}


def test_an_unknown_accelerate_configuration_is_named(job: StageJob) -> None:
    on_tpu = job.model_copy(update={"needs_gpu": True, "compute": ComputeConfig(accelerate="tpu")})
    with pytest.raises(UserError, match=r"compute\.accelerate \(tpu\) names no configuration; there are cpu"):
        stage_command(on_tpu)
