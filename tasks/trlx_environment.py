"""The Python environment of `trainer: trlx`: libraries of early 2024, which cannot stand beside this package's."""

from __future__ import annotations

import os
from pathlib import Path

from deployments import FOLDER
from rlhf.errors import UserError

ROOT = Path(__file__).parent.parent
BUILT = ROOT / ".trlx-venv" / "bin" / "python"
"""Where `make trlx-env` puts it."""
ON_GPUS = FOLDER / "trlx" / "zero2.yaml"
"""The accelerate configuration of its stages on GPUs, as published: only under DeepSpeed has trlx several processes."""


def trlx_python() -> str:
    """The interpreter: the one that TRLX_PYTHON names, else the one that `make trlx-env` built.

    Raises UserError where there is none.
    """
    given = os.environ.get("TRLX_PYTHON")
    python = Path(given) if given else BUILT
    if not python.is_file():
        found = f"TRLX_PYTHON ({given}) is no file" if given else "trainer (trlx): there is no environment for it"
        raise UserError(
            f"{found}; build one with `make trlx-env`, let TRLX_PYTHON name the python of one, or set trainer to own"
        )
    return str(python)
