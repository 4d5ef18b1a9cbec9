"""Files that describe where the workflow runs: deployments, pools, accelerate configurations, images, AWS."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
