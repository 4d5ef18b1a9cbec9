"""Places that tests read."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""
GOLDEN = Path(os.environ.get("TRLX_GOLDEN", ROOT / "tests" / "golden" / "trlx-ppo.json"))
"""Numbers made by running trlx."""
SHARED = Path(os.environ.get("RLHF_SHARED", ROOT.parent / "shared"))
"""Real data and models, for the tests that use them where they are there."""
