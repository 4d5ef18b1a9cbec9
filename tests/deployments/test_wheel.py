"""The wheel contains all files that the package needs, and runs outside the repository."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support.cli import SMALL
from tests.support.paths import ROOT

PACKAGES = ("deployments", "flows", "rlhf", "tasks")
NOT_SHIPPED = {"__pycache__", "rlhf_workflow.egg-info"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the repository, without a network."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns(*NOT_SHIPPED))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(source)], check=True, capture_output=True)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`rlhf`, installed from the wheel into a virtual environment that uses the libraries of this one."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()))
    return environment / "bin" / "rlhf"


def run(command: Path, folder: Path, *arguments: str) -> str:
    """Standard output of `rlhf ARGUMENTS` in `folder`, where nothing of the repository can be imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PREFECT"))}
    environment["PREFECT_HOME"] = str(folder / "prefect")
    done = subprocess.run(
        [command, *arguments], cwd=folder, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_of_its_packages(wheel: Path) -> None:
    expected = {
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and not NOT_SHIPPED & set(path.parts)
    }
    with ZipFile(wheel) as content:
        names = content.namelist()
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        fields = Parser().parsestr(content.read(metadata).decode())
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert fields["License-Expression"] == "Apache-2.0"


def test_what_is_known_to_break_the_server_is_excluded(wheel: Path) -> None:
    with ZipFile(wheel) as content:
        metadata = next(name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
        requirements = Parser().parsestr(content.read(metadata).decode()).get_all("Requires-Dist")
    bounded = {requirement.partition(";")[0].strip() for requirement in requirements or []}
    assert {"fastapi<0.155,>=0.150", "prefect<3.9,>=3.8.8", "SQLAlchemy<2.1,>=2.0"} <= bounded


def test_installed_it_knows_its_profiles_and_plans_in_an_empty_folder(command: Path, tmp_path: Path) -> None:
    assert "quickstart" in run(command, tmp_path, "profiles")
    assert "train_ppo" in run(command, tmp_path, "plan", "quickstart")


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
def test_installed_it_runs_the_pipeline_in_an_empty_folder(command: Path, tmp_path: Path) -> None:
    settings = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    run(command, tmp_path, "run", "quickstart", *settings)
    assert (tmp_path / "runs" / "quickstart" / "report.html").is_file()
