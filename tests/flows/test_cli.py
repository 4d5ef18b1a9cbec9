"""The command line itself: help, version, names of runs, and one line for every error that the user can fix."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import cli
from rlhf.config import RunConfig
from rlhf.errors import UserError
from rlhf.storage.s3_store import S3Store, open_store
from tasks.run import Run
from tasks.trlx_environment import trlx_python

COMMANDS = ["run", "plan", "report", "profiles", "label", "serve", "deploy", "verify", "clean"]
SUBCOMMANDS = ["profiles show", "label serve", "label import", "label package", "label send"]


def help_of(command: str) -> str:
    outcome = CliRunner().invoke(cli.app, [*command.split(), "--help"])
    assert outcome.exit_code == 0
    return outcome.output


@pytest.mark.parametrize("command", [*COMMANDS, *SUBCOMMANDS])
def test_every_command_has_a_help_with_examples_of_itself(command: str) -> None:
    examples = re.split(r"Examples?: *\n", help_of(command))[1].split("\n")
    assert examples[0].strip().startswith(f"rlhf {command}")


def test_the_help_lists_all_commands_by_group_and_four_examples() -> None:
    text = help_of("")
    names = re.findall(r"^│ (\w+) ", text, flags=re.MULTILINE)
    assert names == COMMANDS
    panels = [text.index(f"─ {name} ─") for name in ("Run", "Evaluate by people", "Serve", "Maintain")]
    assert panels == sorted(panels)
    assert len(re.findall(r"^ rlhf \w+", text.split("Examples:")[1], flags=re.MULTILINE)) == 4


def test_an_optional_argument_is_bracketed_once() -> None:
    assert "rlhf report [OPTIONS] [RUN]" in help_of("report")


def test_the_version_is_that_of_the_package() -> None:
    outcome = CliRunner().invoke(cli.app, ["--version"])
    assert (outcome.exit_code, outcome.output) == (0, f"rlhf-workflow {version('rlhf-workflow')}\n")


@pytest.mark.parametrize("command", ["ui", "show", "labels"])
def test_commands_of_older_versions_are_unknown(command: str) -> None:
    assert CliRunner().invoke(cli.app, [command]).exit_code == 2


def test_help_imports_nothing_heavy() -> None:
    code = "import flows.cli, sys; print(*{'prefect', 'pydantic', 'torch', 'boto3', 'yaml', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_an_error_of_the_user_is_one_line_even_if_it_has_a_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "broken.yaml"
    profile.write_text("ppo: [\n")
    monkeypatch.setattr(sys, "argv", ["rlhf", "plan", str(profile)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert isinstance(stopped.value.__context__, UserError)
    assert stopped.value.__context__.__cause__ is not None
    assert re.fullmatch(rf"error: profile {re.escape(str(profile))}: not valid YAML: .*\n", capsys.readouterr().err)


def test_a_name_with_markup_is_shown_as_it_is() -> None:
    shown = CliRunner().invoke(cli.app, ["plan", "quickstart", "--set", "run_name=[red]a[bold]"])
    assert (shown.exit_code, shown.output.splitlines()[0].strip()) == (0, "[red]a[bold] on cpu, 1 processes")


def test_an_empty_workspace_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(cli.app, ["clean", "--workspace="])
    assert isinstance(outcome.exception, UserError)
    assert str(outcome.exception).startswith("--workspace: must not be empty")


def test_a_workspace_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: not a folder; name another one with --workspace"):
        open_store(str(tmp_path / "file")).require_writable()


def test_a_tilde_is_the_home_folder_and_never_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, current = tmp_path / "home", tmp_path / "current"
    for name in ("here", "cache"):
        (home / name).mkdir(parents=True)
    current.mkdir()
    (home / "python").touch()
    for variable, path in {"HOME": str(home), "TRLX_PYTHON": "~/python", "RLHF_CACHE": "~/cache"}.items():
        monkeypatch.setenv(variable, path)
    monkeypatch.chdir(current)
    cleaned = CliRunner().invoke(cli.app, ["clean", "--workspace=~/here"])
    assert (cleaned.exit_code, cleaned.output.splitlines()[0]) == (0, f"{home}/here:")
    plan = CliRunner().invoke(cli.app, ["plan", "quickstart", "--workspace=~/here"])
    assert plan.exit_code == 0
    open_store("~/here").require_writable()
    assert open_store("~/here").root == home / "here" / "artifacts"
    assert Run.open(RunConfig(), "~/here").workspace == home / "here"
    assert trlx_python() == str(home / "python")
    assert S3Store("s3://bucket/prefix").workspace.parent == home / "cache"
    assert list(current.iterdir()) == []
