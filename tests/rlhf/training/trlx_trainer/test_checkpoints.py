"""Checkpoints of trlx: a damaged or foreign one is not resumed from, nor one whose best weights are damaged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlhf.training.trlx_trainer.checkpoints import Checkpoints, TrlxState
from tests.support.damage import flip_a_bit, replace_by_pipe


def state(iteration: int, best_step: int | None) -> TrlxState:
    return TrlxState(iteration=iteration, best_step=best_step)


def make_checkpoints(output: Path, *, best_step: int | None = 1) -> Checkpoints:
    """Checkpoints after 8 and 16 optimizer steps."""
    checkpoints = Checkpoints(output, keep=2)
    checkpoints.root.mkdir(parents=True)
    if best_step is not None:
        checkpoints.save_best(best_step, {"weight": torch.ones(3)})
    for iteration in (8, 16):
        checkpoints.folder(iteration).mkdir()
        (checkpoints.folder(iteration) / "optimizer.bin").write_bytes(b"moments")
        checkpoints.finish(state(iteration, best_step))
    return checkpoints


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped bit": flip_a_bit,
    "torn": lambda path: os.truncate(path, 2),
    "missing": Path.unlink,
    "pipe": replace_by_pipe,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["optimizer.bin", "state.json", "checkpoint.json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, file: str, damage: str) -> None:
    checkpoints = make_checkpoints(tmp_path)
    assert checkpoints.newest() == (checkpoints.folder(16), state(16, 1))
    DAMAGES[damage](checkpoints.folder(16) / file)
    assert checkpoints.newest() == (checkpoints.folder(8), state(8, 1))


def test_without_the_best_weights_the_training_starts_again_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = make_checkpoints(tmp_path)
    flip_a_bit(checkpoints.best(1))
    assert checkpoints.newest() is None
    told = capsys.readouterr().out
    assert told.count("this checkpoint is damaged (best-1.safetensors was changed) and was removed") == 2
    assert "no intact checkpoint is left; the training starts again" in told


def test_checkpoints_of_another_run_and_other_names_do_not_count(tmp_path: Path) -> None:
    checkpoints = make_checkpoints(tmp_path / "one", best_step=None)
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    assert Checkpoints(tmp_path / "other", keep=2).newest() is None
    shutil.copytree(checkpoints.folder(8), checkpoints.folder(24))
    (checkpoints.root / "step-x").mkdir()
    assert checkpoints.newest() == (checkpoints.folder(16), state(16, None))
