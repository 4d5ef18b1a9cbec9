"""Settings as a person types them, in a profile or behind `--set`: taken as written, or one line that says why not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlhf.config import DataConfig, ExportConfig, ModelConfig, RunConfig, expand_home
from rlhf.errors import UserError
from rlhf.profiles import load_profile
from rlhf.profiles.yaml_text import MAX_DEPTH, MAX_VALUES, MalformedYamlError, parse_yaml

TEXTS = [
    "a #3",
    "2026-01-05",
    "2024",
    "no",
    "010",
    "1e3",
    "x: y",
    "[a",
    "{a",
    "'a'",
    '"a"',
    "~",
    "null",
    "a\\nb",
    " a ",
]


def value_at(config: RunConfig, name: str) -> object:
    """A setting by its dotted name."""
    value: object = config
    for key in name.split("."):
        value = getattr(value, key)
    return value


def refusal(profile: str | Path, *overrides: str) -> str:
    """The line that the settings are refused with."""
    with pytest.raises(UserError) as raised:
        load_profile(str(profile), overrides)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["model.repository", "model.revision", "data.repository", "judge.llm.model"])
def test_a_text_behind_set_is_the_text_that_was_typed(name: str, text: str) -> None:
    llm = ["judge.llm.url=http://127.0.0.1/v1", "judge.llm.model=m"] if name.startswith("judge") else []
    assert value_at(load_profile("quickstart", [*llm, f"{name}={text}"]), name) == text


@pytest.mark.parametrize("text", ["data #3", "2024", "/x/a: b", "2026-01-05", "no", "a=b"])
def test_a_path_behind_set_is_the_path_that_was_typed(text: str) -> None:
    config = load_profile("quickstart", [f"data.source={text}", f"judge.model={text}", f"model.path={text}"])
    assert (config.data.source, config.judge.model, config.model.path) == (text, ModelConfig(path=text), text)


@pytest.mark.parametrize("name", ["reward.path", "toxicity.second_opinion", "compute.gpu_pool", "ppo.kl_target"])
def test_null_unsets_a_setting_that_may_be_unset(name: str) -> None:
    assert value_at(load_profile("quickstart", [f"{name}=7", f"{name}=null"]), name) is None


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.subsets=[2024, no, 'a #3', 010]", ("2024", "no", "a #3", "010")),
        ("evaluation.primary_endpoints=[toxicity]", ("toxicity",)),
        ("data.subsets=[a/b, a.b, ä]", ("a/b", "a.b", "ä")),
        ("ppo.adam_betas=[0.8, 9e-1]", (0.8, 0.9)),
        ("ppo.sampling={max_new_tokens: 3}", None),
        ("ppo.learning_rate=5e-4", 5e-4),
        ("ppo.kl_horizon=10_000", 10_000),
        ("ppo.scale_scores=no", False),
        ("ppo.scale_scores=True", True),
        ("ppo.unfrozen_blocks=all", "all"),
        ("ppo.unfrozen_blocks=3", 3),
    ],
)
def test_lists_numbers_and_sections_behind_set(override: str, value: object) -> None:
    config = load_profile("quickstart", [override])
    if value is None:
        assert config.ppo.sampling.max_new_tokens == 3
    else:
        assert value_at(config, override.partition("=")[0]) == value


@pytest.mark.parametrize("text", ["2026-01-05", "2024", "no", "010", "1e3", "0x10", "1:30"])
def test_a_text_in_a_profile_is_taken_as_written(tmp_path: Path, text: str) -> None:
    profile = tmp_path / "own.yaml"
    profile.write_text(f"run_name: {text}\ndata:\n  source: {text}\n  subsets: [{text}, '{text}']\n")
    config = load_profile(str(profile))
    assert (config.run_name, config.data.source, config.data.subsets) == (text, text, (text, text))


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    profile = tmp_path / "own.yaml"
    profile.write_text("model: {path: ~/m}\n")
    checkpoint = [f"toxicity.{name}=~/c" for name in ("checkpoint", "checkpoint_config", "prompts", "second_opinion")]
    checkpoint += [f"toxicity.checkpoint_sha256={'0' * 64}", "toxicity.classifier=detoxify"]
    paths = ["data.source=~/d", "reward.path=~/r", "judge.llm.path=~/l", "evaluation.questions=~/q", "judge.model=~/j"]
    config = load_profile("~/own.yaml", [*paths, *checkpoint])
    assert config.judge.llm
    assert config.judge.model
    assert [config.model.path, config.data.source, config.reward.path, config.judge.llm.path] == [
        f"{tmp_path}/{name}" for name in "mdrl"
    ]
    toxicity = config.toxicity
    assert [config.evaluation.questions, config.judge.model.path] == [f"{tmp_path}/q", f"{tmp_path}/j"]
    assert {toxicity.checkpoint, toxicity.checkpoint_config, toxicity.prompts, toxicity.second_opinion} == {
        f"{tmp_path}/c"
    }
    assert config.run_name == "own"


@pytest.mark.parametrize("path", ["/a/~", "a~b", "./~", "hub"])
def test_a_tilde_elsewhere_is_a_character(path: str) -> None:
    assert DataConfig(source=path).source == path == expand_home(path)


def test_an_unknown_user_has_no_home_folder() -> None:
    assert "~nobody-of-that-name is no home folder" in refusal("quickstart", "data.source=~nobody-of-that-name/x")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ppo.learning_rate=nan", "ppo.learning_rate ('nan'): Input should be a finite number"),
        ("ppo.learning_rate=.inf", "ppo.learning_rate (.inf)"),
        ("ppo.learning_rate=1e999", "ppo.learning_rate (1e999): Input should be a finite number"),
        ("ppo.steps=" + "9" * 400, "ppo.steps (" + "9" * 100 + "...): "),
        ("ppo.steps=" + "9" * 9000, "ppo.steps (" + "9" * 100 + "...): "),
        ("data.test_prompts=1000000000000", "less than or equal to 1000000"),
        ("data.synthetic_pairs=1000000000000", "less than or equal to 10000000"),
        ("seed=99999999999", "less than or equal to 4000000000"),
        ("ppo.unfrozen_blocks=0", "ppo.unfrozen_blocks (0): Input should be greater than or equal to 1"),
        ("ppo.adam_betas=[0.9, 1]", "ppo.adam_betas.1 (1): Input should be less than 1"),
        ("responses.stop_sequences=['']", "responses.stop_sequences.0 (''): "),
        ("data.source=", "data.source (''): String should have at least 1 character"),
        ("model.repository=" + "a" * 20_000, "String should have at most 10000 characters"),
        ("compute.accelerate=../trlx/zero2", "compute.accelerate ('../trlx/zero2'): String should match pattern"),
        ("data.subsets=[../../etc]", "data.subsets.0 ('../../etc'): String should match pattern"),
        ("data.subsets=[a/../b]", "data.subsets.0 ('a/../b'): String should match pattern"),
        ("data.subsets=[/etc]", "data.subsets.0 ('/etc'): String should match pattern"),
        ("data.subsets=['*']", "data.subsets.0 ('*'): String should match pattern"),
        ("run_name=artifacts", "run_name (artifacts) is a folder that every workspace has"),
        ("run_name=a\\b", "must be a folder name"),
        ("run_name=" + "ä" * 60, "of at most 100 bytes"),
        ("judge.llm={url: a, url: b}", "'url' is given twice"),
    ],
)
def test_a_value_out_of_bounds_is_refused_in_one_line(override: str, message: str) -> None:
    assert message in refusal("quickstart", override)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ppo:\n  steps: 2\n  steps: 3\n", "'steps' is given twice, in lines 2 and 3"),
        (b"ppo: {steps: 2}\nppo: {seeds: 3}\n", "'ppo' is given twice, in lines 1 and 2"),
        (b"ppo:\n\tsteps: 2\n", "not valid YAML"),
        (b"run_name: \xff\n", "not UTF-8 (byte 11)"),
        (
            b"a: &a [x, x]\nb: &b [*a, *a]\n"
            + b"".join(
                b"%c: &%c [%s]\n" % (name, name, b", ".join([b"*%c" % (name - 1)] * 9))
                for name in range(ord("c"), ord("m"))
            ),
            f"more than {MAX_VALUES} values",
        ),
        (b"a: &a [*a]\n", "nested too deeply"),
        (b"a: " + b"[" * 5_000, "nested too deeply"),
        (b"ppo: &p {steps: 2}\nsft: {<<: *p}\n", "line 2: a merge (<<) is not read"),
        (
            b"seed: !!python/object/apply:os.system [id]\n",
            "line 1: the tag 'tag:yaml.org,2002:python/object/apply:os.system'",
        ),
        (b"data: {source: !!binary aGk=}\n", "the tag 'tag:yaml.org,2002:binary' is not read"),
        (b"? [a]\n: b\n", "a name must be a text"),
        (b"a: 1\n---\nb: 2\n", "not valid YAML"),
        (b'run_name: "\\UFFFFFFFF"\n', "not valid YAML"),
        (b'data: {source: "a\\0b"}\n', "must not contain the character NUL"),
        (b'data: {source: "\\ud800"}\n', "data.source"),
        (b"- 1\n", "must contain keys such as `data:` and `ppo:`, got a list"),
        (b"#" * 100_001, "100001 bytes, but at most 100000 are read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_malformed_profile_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    profile = tmp_path / "own.yaml"
    profile.write_bytes(content)
    assert message in refusal(profile)


def test_a_pipe_a_folder_and_a_device_are_no_profiles(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for name in ("pipe", "folder", "zero"):
        assert "not an ordinary file" in refusal(tmp_path / f"{name}.yaml")
    assert "cannot be read" in refusal(tmp_path / "loop.yaml")


def test_aliases_that_stay_small_are_read() -> None:
    assert parse_yaml("a: &x {b: 1}\nc: *x\n") == {"a": {"b": "1"}, "c": {"b": "1"}}
    assert parse_yaml("") is None
    assert parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(MalformedYamlError):
        parse_yaml("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


def flat_names(config: RunConfig) -> list[str]:
    """Dotted names of all sections and settings."""
    names = [*RunConfig.model_fields]
    for section, part in config:
        names += [f"{section}.{name}" for name in getattr(type(part), "model_fields", ())]
    return names


NAMES = st.sampled_from(
    [*flat_names(RunConfig()), "judge.llm.url", "judge.model.path", "model.synthetic.documents", "x"]
)
VALUES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [*TEXTS, "[1, 2]", "{path: a}", "{path: {path: a}}", "[[a]]", "[{}]", "-1", "1e400", "[*a]", "{<<: 1}"]
    ),
    st.integers().map(str),
    st.floats().map(str),
)


def load_or_refuse(profile: str, overrides: list[str]) -> None:
    """Settings, or one line for the user; anything else is a failure."""
    try:
        config = load_profile(profile, overrides)
    except UserError as error:
        message = str(error)
    else:
        assert RunConfig.model_validate_json(config.model_dump_json()) == config
        message = ""
    assert not message or message.isprintable()
    assert len(message) < 5_000


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=3), st.text(max_size=20))
@example([("judge", "a"), ("judge.model.path", "b")], "=")
def test_any_override_gives_settings_or_one_line(overrides: list[tuple[str, str]], other: str) -> None:
    load_or_refuse("quickstart", [f"{name}={value}" for name, value in overrides])
    load_or_refuse("quickstart", [other])


YAML = st.recursive(
    VALUES | st.none() | st.booleans() | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES.map(lambda name: name.rpartition(".")[2]), inner),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_any_file_is_a_profile_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    profile = tmp_path_factory.getbasetemp() / "any.yaml"
    profile.write_bytes(content)
    load_or_refuse(str(profile), [])


@settings(max_examples=150, deadline=None)
@given(YAML)
def test_any_structure_is_a_profile_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, structure: object
) -> None:
    profile = tmp_path_factory.getbasetemp() / "structure.yaml"
    profile.write_text(repr(structure), encoding="utf-8", errors="replace")
    load_or_refuse(str(profile), [])


def test_a_section_that_is_not_given_is_the_default() -> None:
    assert load_profile("quickstart", ["export={}"]).export == ExportConfig()
