"""results.json: its schema, its metrics computed by hand, equal bytes for equal inputs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from math import log
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from rlhf.evaluation.human_preference import evaluate
from rlhf.evaluation.toxicity.continuations import iter_continuations
from rlhf.evaluation.verdict import complete
from rlhf.results import schema
from rlhf.results.schema import Results, StageRow
from rlhf.runs.published import write_with_stage_times
from rlhf.stages.aggregate_results import aggregate_results
from rlhf.storage.files import read_jsonl, write_jsonl
from tests.support.judgements import key, prefers, responses
from tests.support.paths import ROOT
from tests.support.results_fixture import EVALUATION, STAGES, fake_config, fake_run


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
    names = ("first", "best", "last", "best_step")
    assert {name: content["reward"][name] for name in names} == {name: summary[name] for name in names}
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
    judges = {judge["kind"]: judge for judge in content["judges"]}
    assert list(judges) == ["independent", "optimised"]
    for judge in judges.values():
        assert [judge[name] for name in ("wins", "ties", "losses")] == [wins, 0, 12 - wins]
        assert judge["win_rate"]["mean"] == pytest.approx(wins / 12)
        assert judge["accuracy"]["share"] == 0.75
        assert judge["agreement_with_people"] is None
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
    assert comparison["ended_share"]["sft"] == {"mean": 1.0, "n": 12}
    assert content["reward"]["both_ended"]["n"] == 12
    # every response is two tokens longer: length cannot be told apart from the model
    assert content["reward"]["length_controlled"]["ci95"][0] <= 0 <= content["reward"]["length_controlled"]["ci95"][1]
    assert content["reward_hacking_signs"] == []
    assert content["data"]["dropped"]["response too long"] == 210


def test_over_optimization_by_hand(run: tuple[dict[str, Path], Path]) -> None:
    """Two prompts.  At step 10 the judge prefers the first response and not the second.

    Best of n of four samples with the rewards 0 to 3: mean 1.5; best of 2: (0x0 + 1x1 + 2x2 + 3x3) / 6; best of 4: 3.
    The judge, with 0 for the SFT model, prefers the two better samples: 1/2; (2 + 3) / 6 = 5/6; 1.
    """
    content = json.loads((run[1] / "results.json").read_bytes())
    points = content["over_optimisation"]
    assert [(point["method"], point["step"], point["n"]) for point in points] == [
        ("ppo", 0, None),
        ("ppo", 10, None),
        ("best_of_n", None, 1),
        ("best_of_n", None, 2),
        ("best_of_n", None, 4),
    ]
    assert [point["judge_win_rate"] for point in points] == pytest.approx([0.5, 0.5, 0.5, 5 / 6, 1.0])
    assert [point["optimised_score"] for point in points] == pytest.approx([0.5, 1.5, 1.5, 14 / 6, 3.0])
    assert [point["kl"] for point in points] == pytest.approx([0.0, 1.0, 0.0, log(2) - 1 / 2, log(4) - 3 / 4])
    assert [point["ended_share"] for point in points] == pytest.approx([0.5, 0.5, 0.75, 1.0, 1.0])
    assert [point["response_words"] for point in points] == pytest.approx([4.0, 4.0, 4.5, 3 + 14 / 6, 6.0])
    # two equal responses of four words have two 3-grams each, of which two are distinct
    assert [point["distinct_ngrams"] for point in points[:2]] == [0.5, 0.5]


def test_labels_decide_the_verdict(run: tuple[dict[str, Path], Path]) -> None:
    """The reward is higher and toxicity lower; people at 80:20 against the model, at 50:50 and at 80:20 for it."""
    results = Results.model_validate_json((run[1] / "results.json").read_bytes())
    assert results.verdict.tone == "undecided"
    assert results.verdict.headline.endswith("people have not judged yet")
    for wins, tone in ((20, "worse"), (50, "undecided"), (80, "better")):
        models = ["rlhf"] * wins + ["sft"] * (100 - wins)
        judgements = [prefers(n, model) for n, model in enumerate(models)]
        labeled = complete(results, evaluate(judgements, key(100), responses(100), seed=0))
        assert labeled.verdict.tone == tone
        assert labeled.judges[0].kind == "people"
        assert labeled.judges[0].win_rate.mean == wins / 100
        endpoint = labeled.verdict.endpoints[0]
        assert (endpoint.name, endpoint.primary, endpoint.estimate) == ("human_preference", True, wins / 100)
        assert {judge.kind: judge.agreement_with_people is not None for judge in labeled.judges} == {
            "people": False,
            "independent": False,
            "optimised": True,
        }
    assert complete(labeled, labeled.human_evaluation) == labeled


def test_unfinished_labels_count_only_if_no_missing_answer_could_change_them(run: tuple[dict[str, Path], Path]) -> None:
    results = Results.model_validate_json((run[1] / "results.json").read_bytes())
    for wins, losses, tone in ((70, 0, "better"), (60, 5, "undecided"), (0, 70, "worse"), (5, 60, "undecided")):
        models = ["rlhf"] * wins + ["sft"] * losses
        judgements = [prefers(n, model) for n, model in enumerate(models)]
        labeled = complete(results, evaluate(judgements, key(100), responses(100), seed=0))
        assert labeled.verdict.tone == tone
        assert ("have compared 65 of 100 pairs so far" in labeled.verdict.headline) == (tone == "undecided")


def test_primary_endpoints_are_corrected_apart_and_before_labels(run: tuple[dict[str, Path], Path]) -> None:
    """Toxicity is tested as one of two primary endpoints, although the other is not known yet."""
    endpoints = Results.model_validate_json((run[1] / "results.json").read_bytes()).verdict.endpoints
    people, toxicity = endpoints[:2]
    assert (people.name, people.estimate, people.p_adjusted) == ("human_preference", None, None)
    assert toxicity.name == "toxicity"
    assert toxicity.p_value is not None
    assert toxicity.p_adjusted == pytest.approx(2 * toxicity.p_value)
    assert not any(endpoint.primary for endpoint in endpoints[2:])
    secondary = sorted((endpoint.p_value or 0.0, endpoint.p_adjusted) for endpoint in endpoints[2:])
    assert secondary[0][1] == pytest.approx(min(1.0, len(secondary) * secondary[0][0]))


def test_a_reward_model_that_may_be_a_coin_gives_no_verdict(run: tuple[dict[str, Path], Path], tmp_path: Path) -> None:
    inputs = {name: shutil.copytree(folder, tmp_path / name) for name, folder in run[0].items()}
    coin = {**EVALUATION, "accuracy": 0.569, "accuracy_low": 0.448, "accuracy_high": 0.682}
    for name in ("reward", "judge"):
        (inputs[name] / "evaluation.json").write_text(json.dumps(coin))
    aggregate_results(fake_config(), inputs, tmp_path)
    headline = Results.model_validate_json((tmp_path / "results.json").read_bytes()).verdict.headline
    assert headline.startswith("The optimized reward model may be no better than a coin")
    assert headline.endswith("there is no reliable independent judgment yet")


def test_every_seed_stands_in_the_results(run: tuple[dict[str, Path], Path], tmp_path: Path) -> None:
    """Three trainings; the others are copies whose rewards are 0.1 and 0.2 higher."""
    inputs = {name: shutil.copytree(folder, tmp_path / name) for name, folder in run[0].items()}
    for number, seed in enumerate((43, 44), start=1):
        names = {"rlhf": "", "rlhf_responses": "_responses", "rlhf_toxicity": "_toxicity"}
        for name, suffix in {**names, "policy_comparison": "_comparison"}.items():
            inputs[f"rlhf-{seed}{suffix}"] = shutil.copytree(run[0][name], tmp_path / f"{seed}-{name}")
        path = inputs[f"rlhf-{seed}_responses"] / "responses.jsonl"
        rows = [{**row, "reward": float(str(row["reward"])) + 0.1 * number} for row in read_jsonl(path)]
        write_jsonl(path, rows)
        for name in ("rlhf", "rlhf_responses"):
            source = run[0]["judging"] / f"{name}.jsonl"
            shutil.copy(source, inputs["judging"] / f"{name.replace('rlhf', f'rlhf-{seed}')}.jsonl")
    config = fake_config()
    config = config.model_copy(update={"ppo": config.ppo.model_copy(update={"seeds": 3})})
    aggregate_results(config, inputs, tmp_path)
    one = Results.model_validate_json((run[1] / "results.json").read_bytes())
    three = Results.model_validate_json((tmp_path / "results.json").read_bytes())
    first = one.reward.difference.mean
    assert [row.seed for row in three.seeds] == [42, 43, 44]
    assert [row.reward_difference for row in three.seeds] == pytest.approx([first, first + 0.1, first + 0.2])
    assert three.reward.difference.mean == pytest.approx(first + 0.1)
    width = [results.reward.difference.ci95[1] - results.reward.difference.ci95[0] for results in (one, three)]
    assert width[1] > width[0]  # it covers the seeds too
    judges = [next(judge for judge in results.judges if judge.kind == "independent") for results in (one, three)]
    assert judges[1].wins == 3 * judges[0].wins
    labels = {"train_ppo[rlhf-43]", "generate_responses[rlhf-44]", "compare_policies[rlhf-43]"}
    assert labels <= {row.name for row in three.stages}
    page = (tmp_path / "report.html").read_text()
    assert "Every PPO training, RLHF minus SFT" in page
    assert "Every training as a dot" in page
    assert "They cover training seeds" in page


def test_lineage_names_every_stage(run: tuple[dict[str, Path], Path]) -> None:
    content = json.loads((run[1] / "results.json").read_bytes())
    names = [row["name"] for row in content["stages"]]
    assert names == [
        "prepare_model",
        "prepare_data",
        "train_sft",
        "train_reward",
        "train_judge",
        "train_ppo",
        "generate_responses[sft]",
        "generate_responses[rlhf]",
        "score_toxicity[sft]",
        "score_toxicity[rlhf]",
        "compare_policies",
        "export_labeling_manifest",
        "sample_best_of_n",
        "judge_responses",
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
    assert len(definitions) == 41
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
