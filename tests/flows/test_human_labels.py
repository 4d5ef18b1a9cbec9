"""The flow that waits for labels: pending while there are none, complete after all, and failed if they are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.human_labels import collect_labels, read_labels
from rlhf.errors import UserError
from rlhf.labeling.manifest import read_blinded_pairs
from rlhf.labeling.session import LabelingSession
from rlhf.runs.published import FinishedRun
from tests.support.finished_run import finished_run, judgement, write_output


@pytest.fixture
def run(tmp_path: Path) -> FinishedRun:
    return finished_run(tmp_path, prompts=4)


def label(run: FinishedRun, count: int) -> None:
    """Label the first `count` pairs on the page."""
    labels = LabelingSession(run.pairs, run.labels)
    for item in list(labels.pairs)[:count]:
        labels.answer("Ada", item, 1, judgement(item).choices, seconds=2.0, comment="")
    labels.close()


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_report_completes_when_labels_arrive(run: FinishedRun) -> None:
    workspace = str(run.folder.parent)
    assert collect_labels(workspace) == "pending"
    label(run, 2)
    assert collect_labels(workspace) == "pending"
    assert collect_labels(workspace, partial=True) == "partial"
    label(run, 4)
    assert collect_labels(workspace, "fake") == "complete"
    page = (run.folder / "report.html").read_bytes()
    assert collect_labels(workspace, "fake") == "complete"
    assert (run.folder / "report.html").read_bytes() == page


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_wrong_labels_fail_the_flow(run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [pair.id for pair in read_blinded_pairs(run.pairs)]
    manifest = write_output(run, tmp_path / "output", [judgement(item) for item in items])
    manifest.write_text(manifest.read_text() + json.dumps({"id": "feedface"}) + "\n")
    monkeypatch.setattr(read_labels, "retries", 0)
    with pytest.raises(UserError, match="line 5: unknown pair"):
        collect_labels(str(run.folder.parent), source=str(manifest))


def test_import_by_the_command_line(run: FinishedRun, tmp_path: Path) -> None:
    items = [pair.id for pair in read_blinded_pairs(run.pairs)]
    manifest = write_output(run, tmp_path / "output", [judgement(item, overall="tie") for item in items[1:]])
    workspace = ["--workspace", str(run.folder.parent)]
    rejected = CliRunner().invoke(app, ["label", "import", str(manifest), *workspace])
    assert isinstance(rejected.exception, UserError)
    imported = CliRunner().invoke(app, ["label", "import", str(manifest), "--partial", *workspace])
    assert imported.exit_code == 0
    assert f"missing: {items[0]}\n3 of 4 pairs labeled, annotators: 1" in imported.output
    assert "overall       RLHF better 0, tie 3, SFT better 0" in imported.output


def test_a_package_by_the_command_line(run: FinishedRun, tmp_path: Path) -> None:
    packaged = CliRunner().invoke(
        app, ["label", "package", str(tmp_path / "out"), "--workspace", str(run.folder.parent)]
    )
    assert packaged.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "INSTRUCTIONS.md",
        "manifest.jsonl",
        "template.liquid.html",
    ]


def test_a_job_with_an_invalid_name_is_a_user_error(run: FinishedRun) -> None:
    arguments = [
        "s3://labels",
        "--name",
        "a b",
        "--role",
        "r",
        "--workteam",
        "w",
        "--workspace",
        str(run.folder.parent),
    ]
    rejected = CliRunner().invoke(app, ["label", "send", *arguments])
    assert isinstance(rejected.exception, UserError)
    assert "name: String should match pattern" in str(rejected.exception)
