"""Profiles: every shipped one loads, and every mistake is named, with similar names."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from rlhf.errors import UserError
from rlhf.profiles import describe, load_profile, profile_names


def test_the_published_recipe_and_two_small_profiles_are_shipped() -> None:
    assert {"quickstart", "hh-small", "gptj-6b"} <= set(profile_names())


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_loads_and_can_be_shown(name: str) -> None:
    assert load_profile(name).run_name == name
    assert describe(name)
    shown = CliRunner().invoke(app, ["profiles", "show", name])
    assert shown.exit_code == 0
    assert f"run_name: {name}" in shown.output


def test_the_6b_profile_has_the_published_settings() -> None:
    config = load_profile("gptj-6b")
    # rollouts, epochs, learning rate, clips and KL of the published PPO "6B" setting, spread over 8 processes
    assert config.ppo.rollouts_per_step == 448
    assert (config.ppo.epochs, config.ppo.unfrozen_blocks, config.ppo.learning_rate) == (4, 2, 8e-6)
    assert (config.ppo.kl_coefficient, config.ppo.kl_target, config.ppo.kl_horizon) == (0.05, 6.0, 10_000)
    assert (config.ppo.policy_clip, config.ppo.value_clip, config.ppo.score_clip) == (0.2, 0.2, 10.0)
    assert (config.data.max_prompt_tokens, config.ppo.sampling.max_new_tokens) == (384, 128)
    assert "gpt-j" in config.model.repository


def test_overrides_apply_in_order() -> None:
    config = load_profile("quickstart", ["ppo.steps=3", "ppo.steps=4", "ppo.learning_rate=1e-3", "run_name=trial"])
    assert (config.ppo.steps, config.ppo.learning_rate, config.run_name) == (4, 1e-3, "trial")


def test_the_name_of_a_run_wins_over_profile_and_overrides(tmp_path: Path) -> None:
    profile = tmp_path / "small.yaml"
    profile.write_text("run_name: weekly\n")
    assert load_profile(str(profile)).run_name == "weekly"
    assert load_profile(str(profile), ["run_name=other"]).run_name == "other"
    assert load_profile(str(profile), ["run_name=other"], run_name="trial").run_name == "trial"


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden"])
def test_a_run_name_is_a_folder_name(name: str) -> None:
    with pytest.raises(UserError, match=r"run_name \(.*\) must be a folder name"):
        load_profile("quickstart", run_name=name)


@pytest.mark.parametrize(
    ("profile", "overrides", "message"),
    [
        ("quikstart", [], "unknown profile 'quikstart', did you mean quickstart?"),
        ("quickstart", ["ppo.stepz=3"], "unknown setting ppo.stepz, did you mean steps?"),
        ("quickstart", ["pp.steps=3"], "unknown setting pp, did you mean ppo?"),
        ("quickstart", ["ppo.sampling.top=3"], "unknown setting ppo.sampling.top, did you mean top_p or top_k?"),
        ("quickstart", ["ppo.steps=many"], "ppo.steps ('many')"),
        ("quickstart", ["ppo.steps"], "must have the form KEY.KEY=VALUE"),
        ("quickstart", ["ppo.steps=["], "ppo.steps ('[')"),
        ("quickstart", ["data.subsets=["], "--set data.subsets=[: not valid YAML"),
        ("quickstart", ["data.subsets=a"], "data.subsets ('a'): must be a list in brackets"),
        ("quickstart", ["ppo.sampling=off"], "ppo.sampling ('off'): must contain settings"),
        ("quickstart", ["ppo.unfrozen_blocks=most"], "ppo.unfrozen_blocks ('most'): "),
        (
            "quickstart",
            ["judge.model=a", "judge.model.dtype=bfloat16"],
            "judge.model is set to a, which has no settings",
        ),
        (
            "quickstart",
            ["ppo.minibatch_size=10"],
            "ppo.rollouts_per_step (64) must be a multiple of ppo.minibatch_size (10)",
        ),
        ("quickstart", ["compute.processes=3"], "must be a multiple of compute.processes (3)"),
        ("quickstart", ["sft.device_batch_size=5"], "sft.batch_size (16) must be a multiple"),
        ("missing.yaml", [], "profile missing.yaml: cannot be read"),
    ],
)
def test_mistakes_are_named(profile: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        load_profile(profile, overrides)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_profile_of_the_user(tmp_path: Path) -> None:
    profile = tmp_path / "small.yaml"
    profile.write_text("ppo: {steps: 7}\n")
    config = load_profile(str(profile))
    assert (config.run_name, config.ppo.steps) == ("small", 7)
    profile.write_text("ppo: {stepz: 7}\n")
    with pytest.raises(UserError, match=r"unknown setting ppo\.stepz"):
        load_profile(str(profile))
    profile.write_text("ppo: [\n")
    with pytest.raises(UserError, match="line 2"):
        load_profile(str(profile))
    profile.write_text("- 1\n")
    with pytest.raises(UserError, match="must contain keys"):
        load_profile(str(profile))
