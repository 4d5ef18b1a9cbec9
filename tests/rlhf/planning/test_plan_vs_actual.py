"""Plan against actual."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from rlhf.planning.machines import find_machine
from rlhf.planning.plan import plan_run
from rlhf.planning.plan_vs_actual import plan_vs_actual
from rlhf.profiles import load_profile


class Row(NamedTuple):
    name: str
    seconds: float
    device: str = "cpu"


def test_each_step_that_ran_stands_beside_its_plan() -> None:
    config = load_profile("gptj-6b")
    a100 = "8 x NVIDIA A100-SXM4-40GB"
    rows = [Row("train_sft", 5000.0, a100), Row("train_ppo", 2000.0, a100), Row("unknown", 1.0)]
    compared = plan_vs_actual(config, rows)
    plan = {stage.name: stage.estimate.seconds for stage in plan_run(config, find_machine("p4d.24xlarge"), {}).stages}
    assert [(row.name, row.planned_seconds, row.seconds) for row in compared] == [
        ("train_sft", plan["train_sft"], 5000.0),
        ("train_ppo", plan["train_ppo"], 2000.0),
    ]
    assert compared[0].ratio == pytest.approx(5000 / plan["train_sft"])


def test_stages_of_the_judges_and_of_several_trainings_stand_beside_their_plan() -> None:
    """The trainings differ in their seeds only, so they have the same plan."""
    server = ["judge.llm.url=http://127.0.0.1:8000/v1", "judge.llm.model=m"]
    config = load_profile("quickstart", ["seed=7", "ppo.seeds=3", "judge.model.synthetic.num_layers=2", *server])
    names = [
        "train_ppo",
        "train_ppo[rlhf-8]",
        "train_ppo[rlhf-9]",
        "generate_responses[rlhf-9]",
        "score_toxicity[rlhf-9]",
        "compare_policies[rlhf-9]",
        "sample_best_of_n",
        "prepare_model[judge]",
        "train_judge",
        "judge_responses",
        "ask_llm_judge",
    ]
    planned = {row.name: row.planned_seconds for row in plan_vs_actual(config, [Row(name, 1.0) for name in names])}
    assert list(planned) == names
    assert planned["train_ppo"] == planned["train_ppo[rlhf-8]"] == planned["train_ppo[rlhf-9]"]
    assert planned["ask_llm_judge"] == 26


def test_a_run_on_a_cpu_is_planned_for_a_cpu() -> None:
    config = load_profile("quickstart")
    [ppo] = plan_vs_actual(config, [Row("train_ppo", 50.0)])
    assert 0.2 < ppo.ratio < 5  # 50 s were measured


def test_without_a_plan_there_is_nothing_to_compare() -> None:
    config = load_profile("gptj-6b")
    assert plan_vs_actual(config, [Row("train_ppo", 1.0, "8 x NVIDIA T4")]) == []
    unknown = load_profile("gptj-6b", ["model.repository=a/b"])
    assert plan_vs_actual(unknown, [Row("train_ppo", 1.0, "8 x NVIDIA A100-SXM4-40GB")]) == []
