"""Limits and counts that stages compute with and `rlhf plan` estimates with.  Torch-free."""

from __future__ import annotations

import math

from rlhf.config import TrainingConfig

RECOMPUTE_FROM_PARAMETERS = 1_000_000_000
"""Models of this size and larger recompute activations in training: it saves memory and costs a fifth of the speed."""
SCORING_FACTOR = 4
"""Dialogues that train_reward scores at once, per pair of a device batch in training, which takes more memory."""
COMPARED_ROWS = 8
"""Dialogues that compare_policies runs through both models at once, with log-probabilities over the vocabulary."""


def total_steps(settings: TrainingConfig, rows: int) -> int:
    """Optimizer steps of a complete training on `rows` rows: its epochs, or `max_steps` if that is fewer."""
    steps = math.ceil(settings.epochs * rows / settings.batch_size)
    return steps if settings.max_steps is None else min(steps, settings.max_steps)
