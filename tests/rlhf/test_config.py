"""Settings that exclude each other, parts of the settings that a stage reads, and small tools of all settings."""

from __future__ import annotations

import pytest

from rlhf.config import HUB, ModelConfig, RunConfig, SamplingConfig, flatten, require_multiple
from rlhf.errors import UserError
from rlhf.profiles import load_profile
from rlhf.stage_config import STAGES, BestOfNStage, PpoStage, RewardStage, part_of, variant_of_seed
from rlhf.storage.fingerprints import source_digest


@pytest.mark.parametrize(("value", "divisor", "nearest"), [(7, 3, 6), (2, 4, 4)])
def test_a_value_that_is_not_a_multiple_is_refused_with_one_that_is(value: int, divisor: int, nearest: int) -> None:
    with pytest.raises(UserError, match=rf"^a \({value}\) must be a multiple of b \({divisor}\); try {nearest}$"):
        require_multiple("a", value, "b", divisor)


def test_a_multiple_is_accepted() -> None:
    require_multiple("a", 6, "b", 3)


def test_nested_settings_get_dotted_names() -> None:
    assert flatten({"seed": 1, "ppo": {"sampling": {"top_k": 0}, "kl_target": None}, "betas": [0.9, 0.95]}) == {
        "seed": 1,
        "ppo.sampling.top_k": 0,
        "ppo.kl_target": None,
        "betas": [0.9, 0.95],
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["ppo.sampling.top_k=40"], "ppo.sampling.top_k (40) must be 0, and ppo.sampling.top_p (1) 1: PPO needs the "),
        (
            ["ppo.sampling.top_p=0.9"],
            "ppo.sampling.top_k (0) must be 0, and ppo.sampling.top_p (0.9) 1: PPO needs the ",
        ),
        (["ppo.seeds=2"], "ppo.seeds (2) must be 1 or at least 3: two trainings hardly show how much they differ"),
        (["ppo.seeds=0"], "ppo.seeds (0)"),
        (["judge.llm.url=http://127.0.0.1:8000/v1"], "judge.llm needs either url and model, or path"),
        (["judge.llm.model=m"], "judge.llm needs either url and model, or path"),
        (["judge.llm={url: http://h/v1, model: m, path: folder}"], "judge.llm needs either url and model, or path"),
        (["judge.llm={}"], "judge.llm needs either url and model, or path"),
        (
            ["control=shuffled", "reward.path=folder"],
            "control (shuffled) trains a reward model; unset reward.path (folder)",
        ),
        (
            ["evaluation.primary_endpoints=[judge_preference]", "data.judge_share=0"],
            "evaluation.primary_endpoints (judge_preference) needs data.judge_share above 0",
        ),
        (["evaluation.primary_endpoints=[]"], "evaluation.primary_endpoints"),
        (["evaluation.primary_endpoints=[reward]"], "evaluation.primary_endpoints.0 ('reward')"),
        (["data.judge_share=1"], "data.judge_share (1)"),
        (
            ["judge.training={batch_size: 6, device_batch_size: 4}"],
            "judge.training.batch_size (6) must be a multiple of judge.training.device_batch_size x ",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        load_profile("quickstart", overrides)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["ppo.seeds=1"],
        ["ppo.seeds=3"],
        ["judge.llm.url=http://127.0.0.1:8000/v1", "judge.llm.model=m"],
        ["judge.llm.path=folder"],
        ["control=shuffled"],
        ["reward.path=folder"],
        ["evaluation.primary_endpoints=[judge_preference, toxicity]"],
        ["data.judge_share=0"],
        ["responses.sampling.top_k=40", "responses.sampling.top_p=0.9"],
    ],
)
def test_settings_next_to_those_that_are_refused_are_valid(overrides: list[str]) -> None:
    assert load_profile("quickstart", overrides) != load_profile("quickstart", ["seed=43"])


def test_a_text_as_the_judges_model_is_a_folder() -> None:
    by_text, by_path = (
        load_profile("quickstart", ["judge.model=a/b"]),
        load_profile("quickstart", ["judge.model.path=a/b"]),
    )
    assert by_text.judge.model == by_path.judge.model == ModelConfig(path="a/b")
    assert load_profile("quickstart").judge.model is None


def test_the_baseline_samples_like_ppos_validation() -> None:
    config = load_profile("quickstart", ["ppo.sampling.temperature=0.7", "responses.sampling.max_new_tokens=9"])
    best_of_n, ppo = part_of(config, BestOfNStage), part_of(config, PpoStage)
    assert best_of_n.sampling == ppo.ppo.sampling == SamplingConfig(temperature=0.7, max_new_tokens=24)
    assert best_of_n.stop_sequences == ppo.stop_sequences == config.responses.stop_sequences
    assert best_of_n.best_of == 16


def test_the_control_is_a_setting_of_the_reward_model_and_the_report_alone() -> None:
    readers = {name for name, stage in STAGES.items() if "control" in stage.model_fields}
    assert readers == {"train_reward", "aggregate_results"}
    assert part_of(RunConfig(control="shuffled"), RewardStage).control == "shuffled"
    assert RunConfig().control == "none"
    assert RunConfig().data.source == HUB


def test_trainings_are_named_by_their_seed_but_the_first() -> None:
    assert [variant_of_seed(42, number) for number in range(3)] == ["rlhf", "rlhf-43", "rlhf-44"]


def test_no_module_of_the_settings_is_code_of_a_stage() -> None:
    # the settings import only the errors, so nothing else is left of them
    assert source_digest("rlhf.stage_config") == source_digest("rlhf.config") == source_digest("rlhf.errors")
