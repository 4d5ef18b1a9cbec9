"""Files of `deployments/` that the code reads."""

from __future__ import annotations

from pathlib import Path

import pytest

import deployments
from flows.server.specs import read_deployments
from rlhf.errors import UserError


def test_a_missing_file_is_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments, "FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"prefect\.yaml: missing from this installation; install rlhf-workflow again"):
        read_deployments()


def test_every_deployment_has_the_name_of_its_flow() -> None:
    names = [spec.full_name for spec in read_deployments()]
    assert names == ["rlhf-pipeline/pipeline", "collect-labels/labels", "rlhf-stage/p4d"]
