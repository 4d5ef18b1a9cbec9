"""Which answer a person sees first, and under which name an item goes: both decided by a secret.

The secret hashes the seed with both models' answers and rewards.  It is never written beside the items, and since the
rewards are not in them either, nobody can compute it from the seed and what an annotator sees.  Exchanging the two
models does not change it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

from rlhf.artifacts import digest

Model = Literal["sft", "rlhf"]


def blinding_secret(seed: int, response_files: Iterable[str]) -> str:
    """The secret of a run from its seed and the sha256 of both files of answers, in any order."""
    return digest([seed, sorted(response_files)])


def item_name(secret: str, prompt_id: str) -> str:
    """A name of 12 hex digits that tells nothing of the prompt, its place in the data or the coin."""
    return _hash(secret, "item", prompt_id)[:12]


def toss_coin(secret: str, prompt_id: str) -> Model:
    """The model whose answer to the prompt is shown as A: either with equal chance, each prompt by itself."""
    return "sft" if int(_hash(secret, "coin", prompt_id), 16) % 2 else "rlhf"


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
