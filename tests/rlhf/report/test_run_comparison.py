"""Two runs side by side by the command line: figures, differences of settings, what does not compare, clear errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from rlhf.config import DataConfig, ModelConfig, PpoConfig, RunConfig, SyntheticModel, ToxicityConfig
from rlhf.errors import UserError
from rlhf.report.run_comparison import compare_runs, read_run
from rlhf.results.schema import StageRow
from rlhf.runs.published import with_stages
from rlhf.stages.aggregate_results import aggregate_results
from tests.rlhf.report.test_page import Elements
from tests.support.artifacts import finish
from tests.support.results_fixture import fake_config, fake_run

MINUS = "\N{MINUS SIGN}"


def publish(workspace: Path, name: str, *, effect: float, steps: int) -> None:
    """A finished run of that name in `workspace`, as rlhf run leaves it."""
    inputs = fake_run(workspace / f"parts-{name}", effect=effect)
    artifact = workspace / "artifacts" / "aggregate_results" / name
    artifact.mkdir(parents=True)
    aggregate_results(fake_config(), inputs, artifact)
    labeling = workspace / "artifacts" / "export_labeling_manifest" / name
    shutil.copytree(inputs["labeling"], labeling)
    finish(artifact, "aggregate_results", name)
    finish(labeling, "export_labeling_manifest", name)
    figures = json.loads((artifact / "results.json").read_bytes())
    figures["lineage"]["fingerprints"]["export_labeling_manifest"] = name
    figures["lineage"]["versions"]["torch"] = f"2.{steps}.0"
    (artifact / "results.json").write_text(json.dumps(figures))
    finish(artifact, "aggregate_results", name)
    run = workspace / name
    run.mkdir()
    stage = StageRow(name="aggregate_results", seconds=2.0, cached=False, fingerprint=name, device="cpu")
    with_stages(artifact, [stage], run / "results.json", run / "report.html")
    config = RunConfig(
        run_name=name,
        model=ModelConfig(synthetic=SyntheticModel()),
        data=DataConfig(source="synthetic"),
        toxicity=ToxicityConfig(prompts="synthetic", classifier="profanity-check"),
        ppo=PpoConfig(steps=steps),
    )
    (run / "config.json").write_text(config.model_dump_json())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with two finished runs."""
    workspace = tmp_path_factory.mktemp("made")
    publish(workspace, "small", effect=0.2, steps=20)
    publish(workspace, "<b>large", effect=1.0, steps=40)
    return workspace


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The two runs in a workspace of the test's own."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "small", tmp_path / "<b>large"


def test_figures_stand_side_by_side_with_their_change(runs: tuple[Path, Path]) -> None:
    one, two = (json.loads((run / "results.json").read_bytes()) for run in runs)
    compared = compare_runs(read_run(runs[0]), read_run(runs[1]))
    rows = {row.name: row for row in compared.figures}
    row = rows["Reward of test answers, RLHF minus SFT"]
    before, after = (content["reward"]["difference"] for content in (one, two))
    assert float(row.first.replace(MINUS, "-")) == pytest.approx(before["mean"], abs=5e-4)
    assert float(row.second.replace(MINUS, "-")) == pytest.approx(after["mean"], abs=5e-4)
    assert float(row.change.replace(MINUS, "-")) == pytest.approx(after["mean"] - before["mean"], abs=1e-3)
    low, high = (float(end.replace(MINUS, "-")) for end in row.second_range.split(" to "))
    assert (low, high) == pytest.approx(tuple(after["ci95"]), abs=5e-4)
    assert rows["Preferred by people: RLHF, tie, SFT"].first == "pending"
    assert rows["Signs of reward hacking"].second == "none"


def test_only_what_differs_is_listed(runs: tuple[Path, Path]) -> None:
    compared = compare_runs(read_run(runs[0]), read_run(runs[1]))
    assert [tuple(row) for row in compared.settings] == [
        ("run_name", '"small"', '"<b>large"'),
        ("ppo.steps", "20", "40"),
    ]
    assert [tuple(row) for row in compared.origins] == [("torch", "2.20.0", "2.40.0")]
    assert compared.cautions == []
    same = compare_runs(read_run(runs[0]), read_run(runs[0]))
    assert (same.settings, same.origins, same.cautions) == ([], [], [])
    assert {row.change for row in same.figures} <= {"", "+0", "+0.0", "+0.00", "+0.000", "+0.0000"}


def test_what_does_not_compare_is_said(runs: tuple[Path, Path]) -> None:
    path = runs[1] / "results.json"
    content = json.loads(path.read_bytes())
    content["lineage"]["fingerprints"] |= {"train_reward": "other", "prepare_data": "other"}
    content["lineage"]["revisions"]["toxicity prompts"] = "other"
    content["toxicity"]["classifier"] = "detoxify"
    content["synthetic"] = False
    path.write_text(json.dumps(content))
    cautions = compare_runs(read_run(runs[0]), read_run(runs[1])).cautions
    assert [caution.split()[0] for caution in cautions] == ["The", "The", "Different", "The", "One"]
    assert "rewards are on different scales" in cautions[0]


def test_the_page_is_one_file_and_names_are_text(runs: tuple[Path, Path]) -> None:
    found = CliRunner().invoke(app, ["report", "--compare", str(runs[0]), str(runs[1])], env={"COLUMNS": "200"})
    assert found.exit_code == 0, found.output
    page = runs[0].parent / "compare-small-<b>large.html"
    assert f"comparison: {page}" in found.output
    assert "Reward of test answers, RLHF minus SFT" in found.output
    assert "ppo.steps" in found.output
    elements = Elements(page.read_text())
    assert "small and <b>large" in elements.text
    assert not [tag for tag, _ in elements.tags if tag in ("b", "script", "img")]
    assert sum(tag == "svg" for tag, _ in elements.tags) == 1
    assert not [value for _, attributes in elements.tags for value in attributes.values() if "http" in (value or "")
                and not str(value).startswith("http://www.w3.org")]  # fmt: skip


def test_a_brought_along_folder_compares_without_curves(runs: tuple[Path, Path], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "small"
    shutil.copytree(runs[0], elsewhere)
    found = CliRunner().invoke(app, ["report", "--compare", str(elsewhere), str(runs[0])])
    assert found.exit_code == 0, found.output
    text = Elements((elsewhere.parent / "compare-small-small.html").read_text()).text
    assert "elsewhere/small" in text
    assert "<svg" not in text


def test_the_report_is_written_again_from_what_lies_there(runs: tuple[Path, Path]) -> None:
    before = (runs[0] / "report.html").read_bytes()
    (runs[0] / "report.html").unlink()
    for arguments in ([str(runs[0])], ["small", "--workspace", str(runs[0].parent)]):
        found = CliRunner().invoke(app, ["report", *arguments])
        assert found.exit_code == 0, found.output
        assert found.output == f"report: {runs[0] / 'report.html'}\n"
        assert (runs[0] / "report.html").read_bytes() == before


def test_errors_say_what_to_do(runs: tuple[Path, Path], tmp_path: Path) -> None:
    def error(*arguments: str) -> str:
        found = CliRunner().invoke(app, ["report", *arguments])
        assert isinstance(found.exception, UserError), found.output
        return str(found.exception)

    assert "name the folder of a finished run, WORKSPACE/PROFILE" in error("--compare", str(tmp_path), str(runs[0]))
    assert "no finished run none" in error("none", "--workspace", str(tmp_path))
    assert "holds no finished run" in error("--workspace", str(tmp_path / "nothing"))
    (tmp_path / "artifacts" / "aggregate_results" / "small" / "evidence.json").unlink()
    assert "evidence.json: missing; `rlhf run PROFILE --name small` rebuilds it" in error(str(runs[0]))
    (runs[0] / "results.json").write_text("{}")
    assert "written by another version; `rlhf run PROFILE --name small` rebuilds it" in error("--compare", str(runs[0]), str(runs[1]))
