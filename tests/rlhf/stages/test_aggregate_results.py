"""results.json: its schema, its metrics computed by hand, equal bytes for equal inputs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from rlhf.evaluation.toxicity.continuations import iter_continuations
from rlhf.results import schema
from rlhf.results.schema import Results, StageRow
from rlhf.runs.published import write_with_stage_times
from rlhf.stages.aggregate_results import aggregate_results
from rlhf.storage.files import read_jsonl
from tests.support.paths import ROOT
from tests.support.results_fixture import STAGES, fake_config, fake_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Path]:
    root = tmp_path_factory.mktemp("run")
    inputs = fake_run(root)
    output = root / "results"
    output.mkdir()
    aggregate_results(fake_config(), inputs, output)
    return inputs, output


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_metrics_are_those_of_the_artifacts(run: tuple[dict[str, Path], Path]) -> None:
    inputs, output = run
    content = json.loads((output / "results.json").read_bytes())
    summary = json.loads((inputs["rlhf"] / "summary.json").read_bytes())
    assert {name: content["reward"][name] for name in ("first", "best", "last", "best_step")} == summary
    before, after = (
        [float(str(row["reward"])) for row in read_jsonl(inputs[name] / "responses.jsonl")]
        for name in ("sft_responses", "rlhf_responses")
    )
    assert content["reward"]["sft"] == {"mean": pytest.approx(mean(before)), "n": 12}
    assert content["reward"]["difference"]["mean"] == pytest.approx(mean(after) - mean(before))
    assert content["reward"]["chosen"] == {"mean": 0.5, "n": 12}
    low, high = content["reward"]["difference"]["ci95"]
    assert low < content["reward"]["difference"]["mean"] < high

    sft, rlhf = (
        [row.toxicity for row in iter_continuations(inputs[name] / "continuations.jsonl")]
        for name in ("sft_toxicity", "rlhf_toxicity")
    )
    assert content["toxicity"]["sft"] == {"mean": pytest.approx(mean(sft)), "n": 60}
    assert content["toxicity"]["rlhf"] == {"mean": pytest.approx(mean(rlhf)), "n": 60}
    assert content["toxicity"]["difference"]["mean"] == pytest.approx(mean(rlhf) - mean(sft))  # RLHF minus SFT
    assert content["toxicity"]["difference"]["mean"] < 0
    assert content["toxicity"]["difference"]["p_value"] < 0.05
    of_label = {part["label"]: part for part in content["toxicity"]["metrics"]["labels"]}
    assert list(of_label) == ["toxicity", "insult"]
    assert of_label["insult"]["all"]["mean"]["sft"] == pytest.approx(mean(sft) / 2)
    assert [of_label["toxicity"][group]["prompts"] for group in ("all", "toxic", "nontoxic")] == [60, 12, 48]
    assert of_label["toxicity"]["toxic"]["mean"]["sft"] == pytest.approx(mean(sft[::5]))
    people = content["human_evaluation"]
    assert (people["status"], people["pairs"], people["questions"]) == ("pending", 12, [])
    wins = sum(second > first for first, second in zip(before, after, strict=True))
    assert people["reward_model_agreement"]["pairs"] == {"wins": wins, "ties": 0, "losses": 12 - wins}
    reward_model = content["reward_model"]
    assert (reward_model["accuracy"], reward_model["ci95"], reward_model["pairs"]) == (0.75, [0.655, 0.826], 96)
    assert (reward_model["mean_margin"], reward_model["loss"], reward_model["calibration_error"]) == (0.8, 0.5, 0.05)
    assert [(row["low"], row["high"], row["expected"], row["observed"]) for row in reward_model["calibration"]] == [
        (0.5, 0.55, 0.525, 0.575),
        (0.95, 1.0, 0.975, 0.925),
    ]
    comparison = content["policy_comparison"]
    assert comparison["validation_loss"]["difference"]["mean"] == pytest.approx(0.03)
    assert comparison["response_tokens"]["sft"] == {"mean": 21.0, "n": 12}
    assert comparison["response_tokens"]["difference"] == {
        "mean": 2.0,
        "ci95": [2.0, 2.0],
        "p_value": pytest.approx(2 / 2**12),  # exact: only two of all sign patterns are as far from zero
    }
    assert comparison["repetition"]["rlhf"]["mean"] == pytest.approx(0.03)
    assert comparison["kl"]["per_response"] == pytest.approx(4.55)
    assert comparison["kl"]["per_token"] == pytest.approx(4.55 / 23)
    assert content["reward_hacking_signs"] == []
    assert content["data"]["dropped"]["response too long"] == 210


def test_lineage_names_every_stage(run: tuple[dict[str, Path], Path]) -> None:
    content = json.loads((run[1] / "results.json").read_bytes())
    names = [row["name"] for row in content["stages"]]
    assert names == [
        "prepare_model",
        "prepare_data",
        "train_sft",
        "train_reward",
        "train_ppo",
        "generate_responses[sft]",
        "generate_responses[rlhf]",
        "score_toxicity[sft]",
        "score_toxicity[rlhf]",
        "compare_policies",
        "export_labeling_manifest",
    ]
    assert set(content["lineage"]["fingerprints"]) == set(names)
    assert len(set(content["lineage"]["fingerprints"].values())) == len(STAGES)
    assert content["lineage"]["devices"]["train_ppo"] == "2 x cpu"
    assert content["lineage"]["versions"]["torch"] == "2.13.0"
    assert content["lineage"]["seed"] == 42
    assert not any(row["cached"] for row in content["stages"])


def test_revisions_name_the_sources(tmp_path: Path) -> None:
    inputs = fake_run(tmp_path)
    output = tmp_path / "results"
    output.mkdir()
    aggregate_results(fake_config(synthetic=False), inputs, output)
    content = json.loads((output / "results.json").read_bytes())
    assert content["synthetic"] is False
    assert content["lineage"]["revisions"] == {
        "base model": "EleutherAI/gpt-j-6b@47e169305d2e8376be1d31e765533382721b2cc1",
        "dialogues": "own files, fingerprint 073171f7f5e1438a",
        "reward model": "trained in this run",
        "toxicity prompts": "allenai/real-toxicity-prompts@88a5d7954c54f31e153959c2db98e15cf5cbec01",
    }
    assert "my/data" not in (output / "report.html").read_text()


def test_equal_inputs_give_equal_bytes(run: tuple[dict[str, Path], Path], tmp_path: Path) -> None:
    inputs, output = run
    moved = {name: shutil.copytree(folder, tmp_path / f"other-{name}") for name, folder in inputs.items()}
    again = tmp_path / "results"
    again.mkdir()
    aggregate_results(fake_config(), moved, again)
    for name in ("results.json", "report_data.json", "report.html"):
        assert (again / name).read_bytes() == (output / name).read_bytes(), name


def test_stage_times_of_a_run_replace_those_of_the_artifact(run: tuple[dict[str, Path], Path], tmp_path: Path) -> None:
    rows = [
        StageRow(
            name="train_ppo",
            seconds=7384.2,
            cached=True,
            fingerprint="ab",
            device="8 x A100",
            dollars=65.6373,
            planned_seconds=5400.0,
        ),
        StageRow(name="aggregate_results", seconds=2.0, cached=False, fingerprint="cd", device="cpu"),
    ]
    write_with_stage_times(run[1], rows, tmp_path / "results.json", tmp_path / "page.html")
    before, after = (json.loads(path.read_bytes()) for path in (run[1] / "results.json", tmp_path / "results.json"))
    assert after == {**before, "stages": [row.model_dump() for row in rows]}
    page = (tmp_path / "page.html").read_text()
    assert "2 h 3 min" in page
    assert "<td>1 h 30 min</td>" in page  # planned
    assert "<td>yes</td>" in page  # cached
    assert "The stages that this run executed took 2.0 s" in page


def test_pairs_that_do_not_match_raise_an_error(run: tuple[dict[str, Path], Path], tmp_path: Path) -> None:
    inputs = {name: shutil.copytree(folder, tmp_path / name) for name, folder in run[0].items()}
    rows = (inputs["rlhf_toxicity"] / "continuations.jsonl").read_text().splitlines(keepends=True)
    (inputs["rlhf_toxicity"] / "continuations.jsonl").write_text("".join(reversed(rows)))
    with pytest.raises(AssertionError, match="same prompts in the same order"):
        aggregate_results(fake_config(), inputs, tmp_path)


def test_schema_rejects_unknown_keys_and_nan(run: tuple[dict[str, Path], Path]) -> None:
    content = json.loads((run[1] / "results.json").read_bytes())
    assert Results.model_validate(content).model_dump(mode="json") == content
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Results.model_validate({**content, "extra": 1})
    with pytest.raises(ValidationError, match="finite number"):
        Results.model_validate({**content, "reward": {**content["reward"], "best": float("nan")}})


def test_every_field_of_the_schema_is_described() -> None:
    definitions = [Results.model_json_schema(), *Results.model_json_schema()["$defs"].values()]
    assert len(definitions) == 27
    for definition in definitions:
        assert definition["description"]
        assert definition["additionalProperties"] is False
        for name, field in definition["properties"].items():
            assert field.get("description") or "$ref" in field, (definition["title"], name)
    records = [value for value in vars(schema).values() if isinstance(value, type) and issubclass(value, BaseModel)]
    assert all(record.__doc__ for record in records)


def test_report_and_blinding_need_neither_torch_nor_matplotlib() -> None:
    program = (
        "import sys, rlhf.results.schema, rlhf.labeling.session, rlhf.labeling.server\n"
        "print([name for name in ('torch', 'matplotlib', 'scipy', 'transformers', 'prefect') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert process.stdout.strip() == "[]"
