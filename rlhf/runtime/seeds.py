"""Seeds of single rows.  They do not depend on the batch or the rank."""

from __future__ import annotations

import hashlib
import json


def derive_seed(seed: int, *names: str) -> int:
    """A 63-bit seed for the draw called `names` in a run with `seed`; the same on every machine, for good."""
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1
