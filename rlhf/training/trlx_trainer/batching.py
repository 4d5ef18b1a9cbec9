"""Order and number of samples for trlx, where its own batching does not fit."""

from __future__ import annotations

import random

Sample = list[str]
"""A prompt and its response."""
PromptRow = dict[str, str | float]
"""A prompt for trlx: its text, and the baseline that trlx passes to the reward function."""


def training_samples(samples: list[Sample], *, batch_size: int, steps: int, seed: int) -> list[Sample]:
    """Samples of the complete training in order, shuffled in each epoch, since trlx does not shuffle them."""
    draw, order = random.Random(seed), list[Sample]()
    while len(order) < steps * batch_size:
        order += draw.sample(samples, len(samples))
    return order[: steps * batch_size]


def pad_to_full_chunks(prompts: list[PromptRow], chunk: int) -> list[PromptRow]:
    """Append the first prompts again until all chunks are full.

    Otherwise trlx makes the last chunk of an epoch shorter, and draws more rollouts than asked for in that step.
    """
    return prompts + [dict(prompts[index % len(prompts)]) for index in range(-len(prompts) % chunk)]
