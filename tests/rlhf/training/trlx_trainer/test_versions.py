"""Library versions that trlx does not work with are rejected; the message names those that work."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlhf
from rlhf.errors import UserError
from rlhf.training.trlx_trainer.versions import (
    check_accelerate,
    check_reference_matches,
    check_transformers,
    check_versions,
)

IN_OLD_TRANSFORMERS = {
    *("AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoTokenizer", "CONFIG_MAPPING"),
    *("GPTJConfig", "GPTJForSequenceClassification", "GenerationConfig", "logging", "NewGELUActivation"),
    *("PreTrainedModel", "PreTrainedTokenizerBase", "PreTrainedTokenizerFast", "GPTJAttention", "GPTJBlock"),
}
"""Names that transformers 4.41.2 has where transformers 5 has them, of those that trlx's stages import."""


def trees_of(module: str, seen: set[str]) -> Iterator[ast.Module]:
    """Syntax trees of a module of this package and of all others that importing it imports."""
    base = Path(rlhf.__file__).parent.joinpath(*module.split(".")[1:])
    path = next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
    if path is None or module in seen:
        return
    seen.add(module)
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    yield tree
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlhf"):
            for name in (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)):
                yield from trees_of(name, seen)


@pytest.mark.parametrize("stage", ["train_sft_trlx", "train_ppo_trlx"])
def test_the_stages_of_trlx_import_nothing_that_its_transformers_lacks(stage: str) -> None:
    imported = {
        alias.name
        for tree in trees_of(f"rlhf.stages.{stage}", set())
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers")
        for alias in node.names
    }
    assert "AutoTokenizer" in imported  # the walk reaches rlhf.models
    assert imported <= IN_OLD_TRANSFORMERS


@pytest.mark.parametrize("version", ["4.27.1", "4.41.2", "4.9.0"])
def test_supported_transformers_pass(version: str) -> None:
    check_transformers(version)


@pytest.mark.parametrize("version", ["4.41.3", "4.42.0.dev0", "4.45.0", "4.57.1", "5.0.0rc1", "10.0"])
def test_newer_transformers_are_rejected_with_a_remedy(version: str) -> None:
    with pytest.raises(
        UserError, match=rf"transformers {version}.*transformers <= 4\.41\.2.*make trlx-env.*TRLX_PYTHON"
    ):
        check_transformers(version)


def test_newer_accelerate_is_rejected() -> None:
    check_accelerate("0.27.2")
    with pytest.raises(UserError, match=r"accelerate 0\.28\.0.*accelerate <= 0\.27\.2"):
        check_accelerate("0.28.0")


@pytest.mark.parametrize("gap", [0.3, float("nan")])
def test_a_reference_that_differs_before_training_is_rejected_with_a_remedy(gap: float) -> None:
    check_reference_matches(0.0, "4.41.2")
    with pytest.raises(
        UserError, match=r"KL .* is not 0 before training.*transformers 4\.45\.0.*transformers <= 4\.41\.2"
    ):
        check_reference_matches(gap, "4.45.0")


def test_the_environment_of_this_package_is_rejected() -> None:
    with pytest.raises(UserError, match=r"transformers <= 4\.41\.2"):
        check_versions()
