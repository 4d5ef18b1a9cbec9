"""The complete pipeline from the command line, with real stages and a real Prefect server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

import pytest

from rlhf.results.schema import Results
from rlhf.storage.files import read_jsonl
from tests.support.cli import CommandLine, free_port
from tests.support.stage_labels import STAGE_LABELS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def command(local_run: CommandLine, prefect_server: str, tmp_path: Path) -> CommandLine:
    """A copy of the finished run, with a server that is already running."""
    shutil.copytree(local_run.workspace, tmp_path / "runs")
    return CommandLine(tmp_path / "runs", local_run.home, server=prefect_server)


def test_the_results_follow_the_documented_schema(local_run: CommandLine) -> None:
    results = Results.model_validate(local_run.results())
    assert results.toxicity.sft.n == results.toxicity.rlhf.n == 20
    assert results.human_evaluation.status == "pending"
    assert (local_run.workspace / "quickstart" / "report.html").read_text().startswith("<!doctype html>")


def test_the_published_model_keeps_use_cache_of_the_base_model(local_run: CommandLine) -> None:
    """The trainers switch it off; whoever calls the model without it computes every token again."""
    folders = [local_run.artifact("prepare_model") / "model", local_run.workspace / "quickstart" / "model"]
    base, published = (json.loads((folder / "config.json").read_text())["use_cache"] for folder in folders)
    assert published is base is True


def test_a_repeated_run_is_cached_and_starts_no_stage(local_run: CommandLine) -> None:
    logs = {path: path.stat().st_mtime_ns for path in local_run.workspace.rglob("log.txt")}
    assert logs
    outcome = local_run.run()
    assert outcome.code == 0, outcome.error
    assert local_run.cached() == dict.fromkeys(STAGE_LABELS, True)
    assert {path: path.stat().st_mtime_ns for path in local_run.workspace.rglob("log.txt")} == logs


@pytest.mark.exhaustive
def test_a_changed_ppo_setting_runs_ppo_and_the_stages_after_it(command: CommandLine) -> None:
    outcome = command.run(settings={"ppo.kl_coefficient": 0.1})
    assert outcome.code == 0, outcome.error
    stages_run = {name for name, cached in command.cached().items() if not cached}
    assert stages_run == {
        "train_ppo",
        "generate_responses[rlhf]",
        "score_toxicity[rlhf]",
        "compare_policies",
        "export_labeling_manifest",
        "judge_responses",
        "aggregate_results",
        "export_model",
    }


@pytest.mark.exhaustive
def test_every_seed_is_trained_and_reported(command: CommandLine) -> None:
    """Only what is new runs: the first seed is that of the finished run."""
    [first] = Results.model_validate(command.results()).seeds
    outcome = command.run(settings={"ppo.seeds": 3})
    assert outcome.code == 0, outcome.error
    new = {
        f"{stage}[rlhf-{seed}]"
        for stage in ("train_ppo", "generate_responses", "score_toxicity", "compare_policies")
        for seed in (43, 44)
    }
    stages_run = {name for name, cached in command.cached().items() if not cached}
    assert stages_run == {*new, "judge_responses", "aggregate_results", "export_model"}

    results = Results.model_validate(command.results())
    assert [row.seed for row in results.seeds] == [42, 43, 44]
    assert results.seeds[0] == first
    page = (command.workspace / "quickstart" / "report.html").read_text()
    scores = command.artifact_of_last_run("judge_responses")
    for row, model in zip(results.seeds, ("rlhf", "rlhf-43", "rlhf-44"), strict=True):
        before, after = (
            column(command.artifact_of_last_run(f"generate_responses[{name}]") / "responses.jsonl", "reward")
            for name in ("sft", model)
        )
        assert row.reward_difference == pytest.approx(fmean(after) - fmean(before), abs=1e-9)
        before, after = (column(scores / f"{name}_responses.jsonl", "score") for name in ("sft", model))
        wins = [(new > old) + (new == old) / 2 for old, new in zip(before, after, strict=True)]
        assert row.judge_win_rate == pytest.approx(fmean(wins), abs=1e-9)
        assert f'<tr><th scope="row">{row.seed}</th><td>{row.best_step}</td>' in page


def column(path: Path, name: str) -> list[float]:
    """Numbers of one column of a file of rows."""
    return [float(str(row[name])) for row in read_jsonl(path)]


def test_the_negative_control_finds_nothing(command: CommandLine) -> None:
    """With shuffled labels, nothing must look better; data, SFT model and judge are those of the finished run."""
    outcome = command.run(settings={"control": "shuffled"})
    assert outcome.code == 0, outcome.error
    cached = {name for name, cached in command.cached().items() if cached}
    assert cached == {"prepare_model", "prepare_data", "train_sft", "train_judge", "score_toxicity[sft]"}
    results = Results.model_validate(command.results())
    assert results.control == "shuffled"
    assert results.verdict.tone != "better"
    assert results.verdict.headline.startswith("Negative control. ")
    assert results.verdict.headline in " ".join(outcome.output.split())
    [judge] = [judge for judge in results.judges if judge.kind == "independent"]
    assert judge.win_rate.ci95[0] <= 0.5
    assert judge.length_controlled_win_rate.ci95[0] <= 0.5
    assert "<strong>Negative control.</strong>" in (command.workspace / "quickstart" / "report.html").read_text()


def test_a_changed_byte_is_reported_and_its_stage_runs_again(command: CommandLine) -> None:
    weights = command.artifact("train_sft") / "model" / "model.safetensors"
    intact = weights.read_bytes()
    weights.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    verified = command("verify", "--workspace", str(command.workspace))
    assert verified.code == 1
    assert f"{weights}: sha256 differs from the manifest" in verified.output
    outcome = command.run()
    assert outcome.code == 0, outcome.error
    assert [name for name, cached in command.cached().items() if not cached] == ["train_sft"]
    assert weights.read_bytes() == intact
    assert command("verify", "--workspace", str(command.workspace)).code == 0


def test_a_deleted_file_is_recreated(command: CommandLine) -> None:
    manifest = command.artifact("export_labeling_manifest") / "manifest.jsonl"
    intact = manifest.read_bytes()
    manifest.unlink()
    assert f"{manifest}: missing" in command("verify", "--workspace", str(command.workspace)).output
    assert command.run().code == 0
    assert [name for name, cached in command.cached().items() if not cached] == ["export_labeling_manifest"]
    assert manifest.read_bytes() == intact


def test_help_is_fast_and_orchestration_does_not_import_torch() -> None:
    started = time.monotonic()
    done = subprocess.run([str(Path(sys.executable).with_name("rlhf")), "--help"], check=True, capture_output=True)
    assert b"verify" in done.stdout
    assert time.monotonic() - started < 60  # it does not hang; the benchmark measures the time
    code = "import flows.pipeline, flows.cli, sys; print('torch' in sys.modules, 'transformers' in sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert imported.stdout == "False False\n"


def finished_artifacts(workspace: Path) -> set[Path]:
    return set(workspace.glob("artifacts/*/*/manifest.json"))


GOOD = '{"chosen": "\\n\\nHuman: Hi\\n\\nAssistant: Hello", "rejected": "\\n\\nHuman: Hi\\n\\nAssistant: No"}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("broken.jsonl", GOOD + '{"chosen": \n', r"broken\.jsonl:2: .*on_bad_row=skip"),
        ("empty.jsonl", "", r"empty\.jsonl"),
        ("other.jsonl", '{"question": "a", "answer": "b"}\n', r"other\.jsonl.*chosen"),
        ("none", None, r"none.*no such file"),
        ("folder/notes.md", "text", r"folder.*jsonl"),
    ],
)
def test_bad_data_is_one_line_and_exit_2(
    command: CommandLine, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    before = finished_artifacts(command.workspace)
    source = tmp_path / name
    if content is not None:
        source.parent.mkdir(exist_ok=True)
        source.write_text(content)
    path = source.parent if "/" in name else source
    outcome = command.run(settings={"data.source": str(path)})
    assert outcome.code == 2, outcome.output + outcome.error
    assert re.fullmatch(rf"error: .*{message}.*\n", outcome.error)
    assert finished_artifacts(command.workspace) == before


def test_a_model_folder_without_weights_is_one_line_and_exit_2(prefect_server: str, tmp_path: Path) -> None:
    fresh = CommandLine(tmp_path / "runs", tmp_path / "prefect", server=prefect_server)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "gptj"}')
    outcome = fresh.run(settings={"model.path": str(tmp_path / "model")})
    assert outcome.code == 2, outcome.output + outcome.error
    assert re.fullmatch(r"error: .*model.*weights.*\n", outcome.error)
    assert finished_artifacts(fresh.workspace) == set()


@pytest.mark.parametrize("name", ["run", "deploy"])
def test_a_server_that_does_not_answer_is_one_line_and_exit_2(name: str, tmp_path: Path) -> None:
    unused = f"http://127.0.0.1:{free_port()}/api"
    outcome = CommandLine(tmp_path / "runs", tmp_path / "prefect", server=unused)(
        name, "quickstart", "--workspace", str(tmp_path / "runs")
    )
    assert outcome.code == 2, outcome.output + outcome.error
    assert re.fullmatch(rf"error: no Prefect server answers at {unused} \(PREFECT_API_URL\); .*\n", outcome.error)


def test_a_full_disk_is_one_line_and_exit_2(prefect_server: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs; run the tests as root")
    try:
        command = CommandLine(disk / "runs", tmp_path / "prefect", server=prefect_server)
        short = {"model.synthetic.documents": 20}
        outcome = command.run(settings=short)
        assert outcome.code == 2, outcome.output + outcome.error
        assert re.fullmatch(r"error: cannot write.*space.*\n", outcome.error)
        assert finished_artifacts(command.workspace) == set()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        outcome = command.run(settings=short)
        assert outcome.code == 2
        assert re.fullmatch(r"error: cannot write.*[Rr]ead-only file system.*\n", outcome.error)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
