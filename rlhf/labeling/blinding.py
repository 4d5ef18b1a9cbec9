"""Secrets that hide which model wrote which answer.

Two hidden draws blind every pair.  The first, derived from the run's seed, decides which model's response is A in the
manifest; only the key records it.  The second, derived from the labeling page's own secret, decides for each pair and
annotator whether A or B is shown on the left.

The first secret hashes the seed together with both models' responses and scores.  It is never stored with the pairs,
and the pairs do not contain the scores, so nobody can compute it from the seed and the texts that annotators see.
Exchanging the two models does not change it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Literal

from rlhf.storage.fingerprints import digest

Model = Literal["sft", "rlhf"]


def blinding_secret(seed: int, response_files: Iterable[str]) -> str:
    """The secret of a run, from its seed and the sha256 of both response files, in any order."""
    return digest([seed, sorted(response_files)])


def blinded_id(secret: str, prompt_id: str) -> str:
    """Id of a pair, 12 hex digits, which reveals neither the prompt, nor its position in the data, nor the models."""
    return _hash(secret, "item", prompt_id)[:12]


def model_shown_as_a(secret: str, prompt_id: str) -> Model:
    """The model whose response to the prompt is A: each has probability 1/2, independently for every prompt."""
    return "sft" if int(_hash(secret, "coin", prompt_id), 16) % 2 else "rlhf"


def pseudonym(secret: bytes, name: str) -> str:
    """An annotator's name outside of the page: 16 hex digits, which cannot be traced back without the secret."""
    return _keyed_hash(secret, "annotator", name)[:16]


def answer_shown_left(secret: bytes, annotator: str, pair_id: str) -> Literal["a", "b"]:
    """The answer that this annotator sees on the left: A and B have probability 1/2, independently for every pair."""
    return "a" if int(_keyed_hash(secret, "side", annotator, pair_id), 16) % 2 else "b"


def order_key(secret: bytes, annotator: str, pair_id: str) -> str:
    """Sort key that gives each annotator a different order, so that fatigue does not affect the same pairs for all."""
    return _keyed_hash(secret, "place", annotator, pair_id)


def _keyed_hash(secret: bytes, *parts: str) -> str:
    return hmac.new(secret, "\0".join(parts).encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
