"""Order of rows, and checkpoints, of the training loop of SFT and reward model."""

from __future__ import annotations

from pathlib import Path

from rlhf.training.trl_trainer import delete_incomplete, newest_checkpoint, training_order


def test_every_epoch_has_every_row_once_and_every_batch_is_sorted_by_length() -> None:
    lengths = [10 + row % 7 for row in range(60)]  # 7 batches of 8; the other 4 rows start the first batch of epoch 2
    order = training_order(lengths, batch_size=8, steps=15, seed=1)
    assert sorted(order) == sorted([*range(60), *range(60)])
    assert len(set(order[:56])) == 56
    batches = [[lengths[row] for row in order[start : start + 8]] for start in range(0, 120, 8)]
    assert all(batch == sorted(batch) for batch in batches)
    assert len({tuple(batch) for batch in batches}) > 10  # batches are drawn from all lengths


def test_the_order_is_drawn_by_seed() -> None:
    first, repeated, other = (training_order([5] * 30, batch_size=4, steps=7, seed=seed) for seed in (1, 1, 2))
    assert first == repeated != other


def test_rows_are_repeated_until_a_batch_is_full() -> None:
    assert training_order([5, 6], batch_size=4, steps=1, seed=0).count(0) == 2


def test_an_incomplete_checkpoint_is_deleted_and_never_resumed_from(tmp_path: Path) -> None:
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
