"""Paths that tests read."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""
GOLDEN = Path(os.environ.get("TRLX_GOLDEN", ROOT / "tests" / "golden" / "trlx-ppo.json"))
"""Numbers from a run of trlx."""
SHARED = Path(os.environ.get("RLHF_SHARED", ROOT.parent / "shared"))
"""Folder of real data and models.  Tests that need them are skipped if it does not exist."""
