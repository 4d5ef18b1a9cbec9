"""Steps, checkpoints and metrics of the shared training loop."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.config import SftConfig
from rlhf.training.trl_trainer import delete_incomplete, newest_checkpoint, total_steps, training_order


@pytest.mark.parametrize(
    ("epochs", "rows", "max_steps", "steps"),
    [(1, 60, None, 8), (2, 60, None, 15), (0.5, 60, None, 4), (1, 60, 5, 5), (1, 60, 500, 8), (0.01, 8, None, 1)],
)
def test_steps_are_those_of_the_epochs_unless_fewer_are_asked_for(
    epochs: float, rows: int, max_steps: int | None, steps: int
) -> None:
    assert total_steps(SftConfig(epochs=epochs, batch_size=8, max_steps=max_steps), rows) == steps


def test_every_epoch_has_every_row_once_and_every_batch_is_sorted_by_length() -> None:
    lengths = [10 + row % 7 for row in range(60)]  # 7 batches of 8, and 4 rows that begin the second epoch's first
    order = training_order(lengths, batch_size=8, steps=15, seed=1)
    assert sorted(order) == sorted([*range(60), *range(60)])
    assert len(set(order[:56])) == 56
    batches = [[lengths[row] for row in order[start : start + 8]] for start in range(0, 120, 8)]
    assert all(batch == sorted(batch) for batch in batches)
    assert len({tuple(batch) for batch in batches}) > 10  # batches are drawn from all lengths


def test_the_order_is_drawn_by_seed() -> None:
    one, again, other = (training_order([5] * 30, batch_size=4, steps=7, seed=seed) for seed in (1, 1, 2))
    assert one == again != other


def test_rows_that_fill_no_batch_are_repeated() -> None:
    assert training_order([5, 6], batch_size=4, steps=1, seed=0).count(0) == 2


def test_a_torn_checkpoint_is_deleted_and_never_resumed_from(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    for step in (90, 100, 110):
        (checkpoints / f"checkpoint-{step}").mkdir(parents=True)
    assert newest_checkpoint(checkpoints) is None
    for step in (90, 100):
        (checkpoints / f"checkpoint-{step}" / "complete").touch()

    assert newest_checkpoint(checkpoints) == checkpoints / "checkpoint-100"
    delete_incomplete(checkpoints)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-100", "checkpoint-90"]


def test_without_a_complete_checkpoint_none_is_kept(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    delete_incomplete(tmp_path / "checkpoints")
    assert not list((tmp_path / "checkpoints").iterdir())
