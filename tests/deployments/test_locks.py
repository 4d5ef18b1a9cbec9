"""The lock files: every package that is installed, in one version, with the hashes of its files."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.paths import ROOT

LOCKS = ("requirements.lock", "torch.lock", "development.lock")
TORCH_PACKAGES = ("torch", "triton", "nvidia-", "cuda-")
INSTALLS = re.compile(r"pip install[^&|#\n]*")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def locked(path: Path | str) -> dict[Requirement, list[str]]:
    """Requirements of a lock file, with the hashes of their files."""
    text = (ROOT / path).read_text(encoding="utf-8").replace("\\\n", " ")
    entries = [line.split(" --hash=", 1)[0] for line in text.splitlines()]
    return {
        Requirement(entry): HASH.findall(line) for entry, line in zip(entries, text.splitlines(), strict=True) if entry
    }


@pytest.fixture(scope="module")
def versions() -> dict[str, str]:
    """Version of each package that is locked for this Python."""
    requirements = [requirement for name in LOCKS for requirement in locked(name)]
    return {
        canonicalize_name(requirement.name): next(iter(requirement.specifier)).version
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate()
    }


def needed(requirements: list[str], extras: set[str]) -> set[str]:
    """Names of the packages that `requirements` ask for on this Python."""
    parsed = [Requirement(text) for text in requirements]
    return {
        canonicalize_name(requirement.name)
        for requirement in parsed
        if requirement.marker is None
        or any(requirement.marker.evaluate({"extra": extra}) for extra in ["", *sorted(extras)])
    }


def test_every_locked_package_has_one_version_and_the_hashes_of_its_files() -> None:
    requirements = [(requirement, hashes) for name in LOCKS for requirement, hashes in locked(name).items()]
    assert len(requirements) > 200
    for requirement, hashes in requirements:
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement
        assert hashes, requirement
        assert not requirement.url, requirement
    names = Counter(canonicalize_name(requirement.name) for requirement, _ in requirements)
    assert names.most_common(1)[0][1] == 1


def test_the_locks_hold_all_that_the_project_and_its_packages_need(versions: dict[str, str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    direct = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["dev"]]
    extras: dict[str, set[str]] = {Requirement(text).name.lower(): Requirement(text).extras for text in direct}
    missing = {name for name in needed(direct, set()) if name not in versions}
    missing |= {canonicalize_name(name) for name in needed(project["build-system"]["requires"], set())} - set(versions)
    for name in versions:
        if not name.startswith(("nvidia-", "cuda-", "triton")):  # not installed beside a CPU build of torch
            requires = metadata.requires(name) or []
            missing |= {f"{name} -> {other}" for other in needed(requires, extras.get(name, set())) - set(versions)}
    assert {text for text in missing if not text.endswith("-> pip")} == set()  # pip comes with every environment


def test_the_environment_has_the_locked_versions(versions: dict[str, str]) -> None:
    expected = {name: version for name, version in versions.items() if not name.startswith(TORCH_PACKAGES[1:])}
    installed = {name: metadata.version(name) for name in expected}
    installed["torch"] = installed["torch"].partition("+")[0]  # 2.13.0+cpu is the CPU build of 2.13.0
    assert installed == expected


def test_torch_and_its_gpu_libraries_have_their_own_lock() -> None:
    assert all(requirement.name.startswith(TORCH_PACKAGES) for requirement in locked("torch.lock"))
    others = [*locked("requirements.lock"), *locked("development.lock")]
    assert not any(requirement.name.startswith(TORCH_PACKAGES) for requirement in others)


@pytest.mark.parametrize(
    "name", ["Makefile", "deployments/docker/gpu.Dockerfile", "deployments/docker/orchestrator.Dockerfile"]
)
def test_nothing_is_installed_without_hashes_but_the_project_torch_and_trlx(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    for command in INSTALLS.findall(text):
        is_project = "--editable ." in command and "--no-deps" in command and "--no-build-isolation" in command
        is_pinned = name == "Makefile" and any(part in command for part in ("$(TORCH)", "uv==", "$<"))
        assert "--require-hashes --requirement" in command or is_project or is_pinned, command
        assert "--require-hashes" not in command or {"--no-deps", "--only-binary=:all:"} <= {*command.split()}, command


@pytest.mark.parametrize(
    "path", sorted((ROOT / "deployments" / "docker").glob("*.Dockerfile")), ids=lambda path: path.name
)
def test_an_image_has_a_base_by_digest_and_a_user_by_number(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    [base] = [line for line in lines if line.startswith("FROM ")]
    assert re.fullmatch(r"FROM \S+:\S+@(\$\{BASE_DIGEST\}|sha256:[0-9a-f]{64})", base)
    [user] = [line for line in lines if line.startswith("USER ")]
    assert re.fullmatch(r"USER [1-9]\d*(:[1-9]\d*)?", user)
    assert not any(line.startswith("RUN") for line in lines[lines.index(user) :])


def test_the_orchestrators_image_has_the_worker_of_ecs_and_nothing_that_trains(tmp_path: Path) -> None:
    text = (ROOT / "deployments" / "docker" / "orchestrator.Dockerfile").read_text(encoding="utf-8")
    [selection] = re.findall(r"^RUN (sed .*?[^\\])$", text, flags=re.DOTALL | re.MULTILINE)
    for name in LOCKS:
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run(["bash", "-ec", selection], cwd=tmp_path, check=True)
    names = {canonicalize_name(requirement.name) for requirement in locked(tmp_path / "orchestrator.lock")}
    assert (
        needed([*(metadata.requires("prefect-aws") or []), "prefect-aws", "pydantic", "boto3", "setuptools"], set())
        <= names
    )
    assert not names & {"torch", "trl", "accelerate", "datasets", "scikit-learn", "pytest", "playwright"}
