"""The stages of the pipeline: their modules exist, and one list names them with their settings."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from rlhf.stage_config import STAGES
from tasks import stages
from tasks.stage import Stage

MODULES = [
    module
    for stage in vars(stages).values()
    if isinstance(stage, Stage)
    for module in (stage.module, stage.trlx_module)
    if module is not None
]


def test_the_pipeline_has_fifteen_stages_and_two_for_trlx() -> None:
    assert len(MODULES) == 17


@pytest.mark.parametrize("module", MODULES)
def test_the_module_of_a_stage_exists(module: str) -> None:
    assert find_spec(module) is not None


def test_the_one_list_of_stages_has_every_stage_with_its_settings_in_order() -> None:
    declared = [(stage.name, stage.config) for stage in vars(stages).values() if isinstance(stage, Stage)]
    assert declared == list(STAGES.items())
