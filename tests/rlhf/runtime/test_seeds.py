"""Seeds of single rows."""

from __future__ import annotations

import hashlib

from rlhf.runtime.seeds import derive_seed


def test_a_seed_is_the_start_of_a_sha256() -> None:
    digest = hashlib.sha256(b'[42, "rollout", "3"]').hexdigest()
    assert derive_seed(42, "rollout", "3") == int(digest[:16], 16) // 2


def test_names_do_not_run_together() -> None:
    seeds = {derive_seed(1, "a", "b"), derive_seed(1, "ab"), derive_seed(1, "b", "a"), derive_seed(2, "a", "b")}
    assert len(seeds) == 4
