"""What the pipeline submits: a change of a setting changes the fingerprints of the stages that depend on it, alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.profiles import load_profile
from tests.support.data_files import hh_row, write_rows
from tests.support.stage_labels import STAGE_LABELS
from tests.support.unstarted_pipeline import Submitted, submit_pipeline

Submit = Callable[..., Submitted]

JUDGES = ("sample_best_of_n", "train_judge", "judge_responses")
PLAIN = tuple(label for label in STAGE_LABELS if label not in JUDGES)
WHOLE_RUN = {"aggregate_results", "export_model"}
"""Stages that read the settings of the whole run."""


@pytest.fixture
def submit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Submit:
    """Submits the quickstart with these overrides; no stage is started."""
    return lambda *overrides: submit_pipeline(monkeypatch, load_profile("quickstart", overrides), tmp_path / "runs")


def changed(first: Submitted, second: Submitted) -> set[str]:
    """Labels of the stages of `first` whose fingerprint in `second` is another one."""
    return {label for label, fingerprint in first.fingerprints.items() if second.fingerprints[label] != fingerprint}


def seed_stages(seed: int) -> set[str]:
    """Labels of the stages of one more PPO training."""
    return {
        f"{stage}[rlhf-{seed}]" for stage in ("train_ppo", "generate_responses", "score_toxicity", "compare_policies")
    }


def test_by_default_an_independent_judge_and_best_of_n_are_part_of_a_run(submit: Submit) -> None:
    assert set(submit().jobs) == set(STAGE_LABELS)


def test_without_pairs_for_it_there_is_no_judge(submit: Submit) -> None:
    plain = submit("data.judge_share=0", "evaluation.best_of=1")
    assert tuple(plain.jobs) == PLAIN
    with_best_of = submit("data.judge_share=0")
    assert set(with_best_of.jobs) == {*PLAIN, "sample_best_of_n"}
    assert changed(plain, with_best_of) == WHOLE_RUN


def test_every_seed_trains_by_ppo_and_is_evaluated(submit: Submit) -> None:
    """The stages of the first seed have the same fingerprints as without other seeds, so they stay cached."""
    one, three = submit(), submit("ppo.seeds=3")
    assert set(three.jobs) - set(one.jobs) == seed_stages(43) | seed_stages(44)
    assert changed(one, three) == {"judge_responses", *WHOLE_RUN}

    labels = ("train_ppo", "train_ppo[rlhf-43]", "train_ppo[rlhf-44]")
    assert len({three.fingerprints[label] for label in labels}) == 3
    assert [three.jobs[label].request.config["seed"] for label in labels] == [42, 43, 44]
    settings = [{**three.jobs[label].request.config, "seed": None} for label in labels]
    assert settings[0] == settings[1] == settings[2]
    inputs = [three.jobs[label].request.inputs for label in labels]
    assert inputs[0] == inputs[1] == inputs[2]
    for stage in ("generate_responses", "score_toxicity", "compare_policies"):
        job = three.jobs[f"{stage}[rlhf-44]"].request
        policy = job.inputs["rlhf" if stage == "compare_policies" else "policy"]
        assert policy.fingerprint == three.fingerprints["train_ppo[rlhf-44]"]
        assert job.config["seed"] == 42  # all models respond with the same random numbers

    judged = three.jobs["judge_responses"].request.inputs
    policies = {f"rlhf{suffix}" for suffix in ("", "-43", "-44")}
    responses = {f"{name}_responses" for name in policies}
    assert set(judged) == {"judge", "best_of_n", "sft_responses", *policies, *responses}
    report = three.jobs["aggregate_results"].request.inputs
    assert policies | responses <= set(report)
    assert set(three.published) == set(three.jobs)


def test_more_seeds_keep_those_that_are_finished(submit: Submit) -> None:
    three, four = submit("ppo.seeds=3"), submit("ppo.seeds=4")
    assert set(four.jobs) - set(three.jobs) == seed_stages(45)
    assert changed(three, four) == {"judge_responses", *WHOLE_RUN}


def test_the_control_shares_data_sft_and_judge_with_the_run(submit: Submit) -> None:
    """Only the reward model and what depends on it are different."""
    run, control = submit(), submit("control=shuffled")
    assert set(run.jobs) == set(control.jobs)
    same = set(run.jobs) - changed(run, control)
    assert same == {"prepare_model", "prepare_data", "train_sft", "train_judge", "score_toxicity[sft]"}
    assert control.jobs["train_reward"].request.config["control"] == "shuffled"
    assert control.jobs["aggregate_results"].request.config["control"] == "shuffled"


def test_the_judge_scores_but_changes_nothing_before_it(submit: Submit) -> None:
    run = submit()
    by_training = submit("judge.training.learning_rate=0.002")
    assert changed(run, by_training) == {"train_judge", "judge_responses", "aggregate_results", "export_model"}
    settings = by_training.jobs["train_judge"].request.config["reward"]
    assert isinstance(settings, dict)
    assert settings["learning_rate"] == 0.002
    # A dialogue for the judge is one less for the policy.
    assert set(run.jobs) - changed(run, submit("data.judge_share=0.4")) == {"prepare_model"}


def test_the_judges_own_base_model_is_prepared(submit: Submit, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    run, other = submit(), submit(f"judge.model={tmp_path / 'model'}")
    assert set(other.jobs) - set(run.jobs) == {"prepare_model[judge]"}
    base = other.jobs["train_judge"].request.inputs["model"]
    assert base.fingerprint == other.fingerprints["prepare_model[judge]"] != other.fingerprints["prepare_model"]
    assert changed(run, other) == {"train_judge", "judge_responses", "aggregate_results", "export_model"}


def test_files_of_the_user_count_by_their_content(submit: Submit, tmp_path: Path) -> None:
    """Copies at another path give the same fingerprints to all stages, another content gives others."""
    folder = tmp_path / "one"
    for name in ("judge", "llm", "safety"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(f'{{"name": "{name}"}}')
    (folder / "questions.jsonl").write_text('{"question": "?", "choices": ["a", "b"], "answer": 0}\n')
    write_rows(folder / "data.jsonl", [hh_row("why")])
    shutil.copytree(folder, tmp_path / "two")

    def submit_with(name: str) -> Submitted:
        files = tmp_path / name
        return submit(
            f"data.source={files / 'data.jsonl'}",
            f"judge.model.path={files / 'judge'}",
            f"judge.llm.path={files / 'llm'}",
            f"evaluation.questions={files / 'questions.jsonl'}",
            f"toxicity.second_opinion={files / 'safety'}",
        )

    one, two = submit_with("one"), submit_with("two")
    assert set(one.jobs) == {*PLAIN, *JUDGES, "prepare_model[judge]", "ask_llm_judge"}
    assert one.fingerprints == two.fingerprints
    readers = {
        "judge/config.json": {"prepare_model[judge]", "train_judge", "judge_responses"},
        "llm/config.json": {"ask_llm_judge"},
        "questions.jsonl": {"compare_policies"},
        "safety/config.json": {"score_toxicity[sft]", "score_toxicity[rlhf]"},
    }
    for file, stages in readers.items():
        content = (folder / file).read_text()
        (folder / file).write_text(content + "\n")
        assert changed(two, submit_with("one")) == stages | WHOLE_RUN
        (folder / file).write_text(content)
