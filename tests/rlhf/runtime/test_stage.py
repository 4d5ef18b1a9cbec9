"""The contract of a stage: manifest, lock, exit codes, lines on standard output."""

from __future__ import annotations

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
import torch

from rlhf.config import DataConfig
from rlhf.errors import UserError
from rlhf.runtime.stage import StageFunction, StageRequest, execute, main, note, progress
from rlhf.stage_config import DataStage
from rlhf.storage.artifacts import CHECKPOINTS, MANIFEST
from rlhf.storage.files import locked
from tests.support.tiny_inputs import write_request

CONFIG = DataStage(seed=7, data=DataConfig())


def write_file(_config: DataStage, _inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """A stage that leaves a file and a checkpoint."""
    (output / CHECKPOINTS).mkdir()
    (output / "rows.jsonl").write_text("{}\n")
    return {"rows": 1}


def request(folder: Path) -> StageRequest:
    path = write_request(folder / "request.json", "prepare_data", CONFIG, {"model": folder / "model"})
    return StageRequest.model_validate_json(path.read_bytes())


def test_a_finished_stage_has_a_manifest_and_no_checkpoints(tmp_path: Path) -> None:
    execute(request(tmp_path), DataStage, write_file, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (manifest["stage"], manifest["seed"], manifest["processes"]) == ("prepare_data", 7, 1)
    assert (manifest["metrics"], manifest["inputs"]) == ({"rows": 1}, {"model": "1" * 16})
    assert set(manifest["files"]) == {"rows.jsonl"}
    assert not (tmp_path / "out" / CHECKPOINTS).exists()


def test_the_device_is_the_cpu_if_it_is_requested_on_a_machine_with_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H100")
    for requested, device in (("true", "cpu"), ("false", "H100")):
        monkeypatch.setenv("ACCELERATE_USE_CPU", requested)
        execute(request(tmp_path), DataStage, write_file, tmp_path / device)
        assert json.loads((tmp_path / device / MANIFEST).read_text())["device"] == device


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        locked(tmp_path / "out" / ".lock"),
        pytest.raises(UserError, match="out is being written by another run; wait for it or stop it"),
    ):
        execute(request(tmp_path), DataStage, write_file, tmp_path / "out")
    execute(request(tmp_path), DataStage, write_file, tmp_path / "out")


def fail_for_the_user(_config: DataStage, _inputs: dict[str, Path], _output: Path) -> dict[str, float]:
    raise UserError("data.source (x): no such file; name one")


def fail_with_a_bug(_config: DataStage, _inputs: dict[str, Path], _output: Path) -> dict[str, float]:
    raise KeyError("x")


@pytest.mark.parametrize(
    ("function", "code", "error"),
    [
        (fail_for_the_user, 2, {"kind": "input", "message": "data.source (x): no such file; name one"}),
        (fail_with_a_bug, 1, {"kind": "fault", "message": "KeyError: 'x'"}),
    ],
)
def test_a_failed_stage_reports_its_error_and_exits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    function: StageFunction[DataStage],
    code: int,
    error: dict[str, str],
) -> None:
    request(tmp_path)
    monkeypatch.setattr("rlhf.runtime.stage._die_with_parent", lambda: None)
    arguments = ["stage", "--config", str(tmp_path / "request.json"), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        main(DataStage, function)
    assert stopped.value.code == code
    assert capsys.readouterr().out == f"@error {json.dumps(error)}\n"
    assert not (tmp_path / "out" / MANIFEST).exists()


@pytest.mark.parametrize("address", [*([] if find_spec("socksio") else ["socks5://proxy:1080"]), "ftp://proxy"])
def test_an_unusable_proxy_is_one_line_that_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    def use_network(_config: DataStage, _inputs: dict[str, Path], _output: Path) -> dict[str, float]:
        httpx.Client()
        return {}

    request(tmp_path)
    monkeypatch.setattr("rlhf.runtime.stage._die_with_parent", lambda: None)
    monkeypatch.setenv("ALL_PROXY", address)
    monkeypatch.setattr(sys, "argv", ["stage", "--config", str(tmp_path / "request.json"), "--output", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        main(DataStage, use_network)
    assert stopped.value.code == 2
    error = json.loads(capsys.readouterr().out.removeprefix("@error "))
    assert error["kind"] == "input"
    assert re.fullmatch(r"environment variables .*ALL_PROXY.*: .*; name a proxy of .* or unset them", error["message"])


def test_frequent_progress_lines_are_skipped_but_not_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    for done in (1, 2, 3):
        progress("a phase of this test", done, 3, loss=0.5)
    note('"half" way')
    first, last, message = capsys.readouterr().out.splitlines()
    content = {"phase": "a phase of this test", "done": 1, "total": 3, "metrics": {"loss": 0.5}}
    assert first == f"@progress {json.dumps(content)}"
    assert json.loads(last.removeprefix("@progress ")) == content | {"done": 3}
    assert message == '@note "\\"half\\" way"'


def test_other_ranks_report_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    progress("another phase of this test", 1, 1)
    note("text")
    assert capsys.readouterr().out == ""
