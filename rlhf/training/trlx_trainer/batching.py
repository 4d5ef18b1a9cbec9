"""What trlx is given in which order, where its own order would not do."""

from __future__ import annotations

import random

Sample = list[str]
"""A prompt and its answer."""
PromptRow = dict[str, str | float]
"""A prompt of trlx: the text, and the baseline, which it hands to the reward."""


def training_samples(samples: list[Sample], *, batch_size: int, steps: int, seed: int) -> list[Sample]:
    """The samples of the whole training in order: every epoch shuffled anew, since trlx does not shuffle them."""
    draw, order = random.Random(seed), list[Sample]()
    while len(order) < steps * batch_size:
        order += draw.sample(samples, len(samples))
    return order[: steps * batch_size]


def whole_chunks(prompts: list[PromptRow], chunk: int) -> list[PromptRow]:
    """The prompts, and the first of them again until they fill whole chunks: trlx would make the last chunk of an
    epoch a short one, and the round with it a long one."""
    return prompts + [dict(prompts[index % len(prompts)]) for index in range(-len(prompts) % chunk)]
