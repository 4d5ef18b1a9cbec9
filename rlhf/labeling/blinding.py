"""Which answer a person sees first, and under which name an item goes: both decided by secrets.

Two coins hide who wrote what.  The first, seeded, decides which model's answer is A in the manifest; only the key
knows it.  The second, of the labelling page, decides for each pair and annotator which of A and B stands left.

The seeded secret hashes the seed with both models' answers and rewards.  It is never written beside the items, and
since the rewards are not in them either, nobody can compute it from the seed and what an annotator sees.  Exchanging
the two models does not change it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Literal

from rlhf.storage.fingerprints import digest

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


def pseudonym(secret: bytes, name: str) -> str:
    """Name of an annotator in everything that leaves the page: 16 hex digits that only the secret leads back."""
    return _keyed_hash(secret, "annotator", name)[:16]


def toss_side(secret: bytes, annotator: str, item: str) -> Literal["a", "b"]:
    """Which of the manifest's answers this annotator sees on the left: either with equal chance, item by item."""
    return "a" if int(_keyed_hash(secret, "side", annotator, item), 16) % 2 else "b"


def place_in_order(secret: bytes, annotator: str, item: str) -> str:
    """Sorting by this gives each annotator an order of their own, so that tired eyes do not all meet the same pairs."""
    return _keyed_hash(secret, "place", annotator, item)


def _keyed_hash(secret: bytes, *parts: str) -> str:
    return hmac.new(secret, "\0".join(parts).encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
