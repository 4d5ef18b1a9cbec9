"""Optimizer steps of a training, which stages run and `rlhf plan` counts."""

from __future__ import annotations

import pytest

from rlhf.config import SftConfig
from rlhf.models.limits import total_steps


@pytest.mark.parametrize(
    ("epochs", "rows", "max_steps", "steps"),
    [(1, 60, None, 8), (2, 60, None, 15), (0.5, 60, None, 4), (1, 60, 5, 5), (1, 60, 500, 8), (0.01, 8, None, 1)],
)
def test_steps_follow_from_the_epochs_and_have_a_maximum(
    epochs: float, rows: int, max_steps: int | None, steps: int
) -> None:
    assert total_steps(SftConfig(epochs=epochs, batch_size=8, max_steps=max_steps), rows) == steps
