"""Seeds of single rows, the same whatever the batch or the process."""

from __future__ import annotations

import hashlib
import json


def row_seed(seed: int, *names: str) -> int:
    """A 63-bit seed for the draw called `names` in a run with `seed`; the same on every machine and for ever."""
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1
