"""The Python environment that tests of trlx itself need."""

from __future__ import annotations

import os

import pytest

TRLX_PYTHON = os.environ.get("TRLX_PYTHON", "")
needs_trlx = pytest.mark.skipif(
    not TRLX_PYTHON, reason="needs trlx: run `make trlx-env` and set TRLX_PYTHON=.trlx-venv/bin/python"
)
