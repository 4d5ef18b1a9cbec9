"""Comparison of two runs on the command line: metrics, settings that differ, warnings, errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from rlhf.errors import UserError
from rlhf.report.run_comparison import compare_runs, read_run
from tests.support.html_elements import Elements
from tests.support.two_runs import publish

MINUS = "\N{MINUS SIGN}"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with two finished runs."""
    workspace = tmp_path_factory.mktemp("two-runs")
    publish(workspace, "small", effect=0.2, steps=20)
    publish(workspace, "<b>large", effect=1.0, steps=40)
    return workspace


@pytest.fixture
def runs(published: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of the two runs in a workspace for one test."""
    shutil.copytree(published, tmp_path, dirs_exist_ok=True)
    return tmp_path / "small", tmp_path / "<b>large"


def test_metrics_are_listed_with_their_change(runs: tuple[Path, Path]) -> None:
    one, two = (json.loads((run / "results.json").read_bytes()) for run in runs)
    comparison = compare_runs(read_run(runs[0]), read_run(runs[1]))
    rows = {row.name: row for row in comparison.metrics}
    row = rows["Optimized reward, RLHF minus SFT"]
    before, after = (content["reward"]["difference"] for content in (one, two))
    assert float(row.first.replace(MINUS, "-")) == pytest.approx(before["mean"], abs=5e-4)
    assert float(row.second.replace(MINUS, "-")) == pytest.approx(after["mean"], abs=5e-4)
    assert float(row.change.replace(MINUS, "-")) == pytest.approx(after["mean"] - before["mean"], abs=1e-3)
    low, high = (float(end.replace(MINUS, "-")) for end in row.second_interval.split(" to "))
    assert (low, high) == pytest.approx(tuple(after["ci95"]), abs=5e-4)
    assert rows["Preferred by people: RLHF, tie, SFT"].first == "pending"
    assert rows["Signs of reward hacking"].second == "none"


def test_only_what_differs_is_listed(runs: tuple[Path, Path]) -> None:
    comparison = compare_runs(read_run(runs[0]), read_run(runs[1]))
    assert [tuple(row) for row in comparison.settings] == [
        ("run_name", '"small"', '"<b>large"'),
        ("ppo.steps", "20", "40"),
    ]
    assert [tuple(row) for row in comparison.provenance] == [("torch", "2.20.0", "2.40.0")]
    assert comparison.warnings == []
    same = compare_runs(read_run(runs[0]), read_run(runs[0]))
    assert (same.settings, same.provenance, same.warnings) == ([], [], [])
    assert {row.change for row in same.metrics} <= {"", "+0", "+0.0", "+0.00", "+0.000", "+0.0000"}


def test_metrics_that_cannot_be_compared_cause_warnings(runs: tuple[Path, Path]) -> None:
    path = runs[1] / "results.json"
    content = json.loads(path.read_bytes())
    content["lineage"]["fingerprints"] |= {"train_reward": "other", "train_judge": "x", "prepare_data": "other"}
    content["lineage"]["revisions"]["toxicity prompts"] = "other"
    content["toxicity"]["classifier"] = "detoxify"
    content["synthetic"] = False
    path.write_text(json.dumps(content))
    warnings = compare_runs(read_run(runs[0]), read_run(runs[1])).warnings
    assert [warning.split()[0] for warning in warnings] == ["The", "The", "The", "Different", "The", "One"]
    assert "rewards are on different scales" in warnings[0]


def test_the_page_is_one_file_and_escapes_names(runs: tuple[Path, Path]) -> None:
    outcome = CliRunner().invoke(app, ["report", "--compare", str(runs[0]), str(runs[1])], env={"COLUMNS": "200"})
    assert outcome.exit_code == 0, outcome.output
    page = runs[0].parent / "compare-small-<b>large.html"
    assert f"comparison: {page}" in outcome.output
    assert "Optimized reward, RLHF minus SFT" in outcome.output
    assert "ppo.steps" in outcome.output
    elements = Elements(page.read_text())
    assert "small and <b>large" in elements.text
    assert not [tag for tag, _ in elements.tags if tag in ("b", "script", "img")]
    assert sum(tag == "svg" for tag, _ in elements.tags) == 1
    assert not [value for _, attributes in elements.tags for value in attributes.values() if "http" in (value or "")
                and not str(value).startswith("http://www.w3.org")]  # fmt: skip


def test_a_copied_folder_is_compared_without_curves(runs: tuple[Path, Path], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "small"
    shutil.copytree(runs[0], elsewhere)
    outcome = CliRunner().invoke(app, ["report", "--compare", str(elsewhere), str(runs[0])])
    assert outcome.exit_code == 0, outcome.output
    text = Elements((elsewhere.parent / "compare-small-small.html").read_text()).text
    assert "elsewhere/small" in text
    assert "<svg" not in text


def test_the_report_is_rebuilt_from_stored_results(runs: tuple[Path, Path]) -> None:
    before = (runs[0] / "report.html").read_bytes()
    (runs[0] / "report.html").unlink()
    for arguments in ([str(runs[0])], ["small", "--workspace", str(runs[0].parent)]):
        outcome = CliRunner().invoke(app, ["report", *arguments])
        assert outcome.exit_code == 0, outcome.output
        assert outcome.output == f"report: {runs[0] / 'report.html'}\n"
        assert (runs[0] / "report.html").read_bytes() == before


def test_errors_name_the_remedy(runs: tuple[Path, Path], tmp_path: Path) -> None:
    def error(*arguments: str) -> str:
        outcome = CliRunner().invoke(app, ["report", *arguments])
        assert isinstance(outcome.exception, UserError), outcome.output
        return str(outcome.exception)

    assert "name the folder of a finished run, WORKSPACE/NAME" in error("--compare", str(tmp_path), str(runs[0]))
    assert "no finished run none" in error("none", "--workspace", str(tmp_path))
    assert "holds no finished run" in error("--workspace", str(tmp_path / "nothing"))
    (tmp_path / "artifacts" / "aggregate_results" / "small" / "report_data.json").unlink()
    assert "report_data.json: missing; `rlhf run PROFILE --name small` rebuilds it" in error(str(runs[0]))
    (runs[0] / "results.json").write_text("{}")
    assert "written by another version; `rlhf run PROFILE --name small` rebuilds it" in error(
        "--compare", str(runs[0]), str(runs[1])
    )
