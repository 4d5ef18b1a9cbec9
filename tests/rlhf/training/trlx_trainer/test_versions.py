"""Library versions that trlx does not work with are rejected; the message names those that work."""

from __future__ import annotations

import pytest

from rlhf.errors import UserError
from rlhf.training.trlx_trainer.versions import (
    check_accelerate,
    check_reference_matches,
    check_transformers,
    check_versions,
)


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
