"""Texts of the synthetic corpus with the lengths of real texts.

Lengths are drawn from quantiles of real texts, in words and punctuation marks: `CONTINUATIONS` of 2,500 continuations
of RealToxicityPrompts; `RESPONSES` and `PROMPTS` of the chosen responses and the dialogues before them, of at most 510,
in the test split of Anthropic's helpful and harmless data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random

import numpy as np

from rlhf.data.synthetic import synthetic_corpus

LEVELS = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1)
CONTINUATIONS = (5, 8, 9, 11, 12, 13, 14, 16, 18, 21, 23, 27, 33, 37)
RESPONSES = (0, 9, 14, 19, 25, 32, 41, 53, 70, 99, 132, 212, 327, 709)
PROMPTS = (3, 12, 17, 36, 59, 83, 109, 140, 183, 255, 327, 501, 510, 510)
"""Quantiles at LEVELS."""


def draw_lengths(count: int, quantiles: tuple[int, ...], seed: int) -> list[int]:
    """`count` lengths drawn from the distribution with these quantiles."""
    levels = np.random.default_rng(seed).random(count)
    return [max(1, round(length)) for length in np.interp(levels, LEVELS, quantiles)]


def make_texts(lengths: list[int], seed: int) -> list[str]:
    """One text per length: words and punctuation marks of the corpus, from random documents."""
    words = _words(seed)
    return [" ".join(next(words) for _ in range(length)) for length in lengths]


def _words(seed: int) -> Iterator[str]:
    documents = synthetic_corpus(2000, seed)
    generator = Random(seed)
    while True:
        yield from re.findall(r"\w+|[^\w\s]", generator.choice(documents))
