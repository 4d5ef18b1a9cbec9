"""The Python environment of `trainer: trlx`: libraries of early 2024 that conflict with those of this package."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import deployments
import rlhf
from rlhf.config import expand_home
from rlhf.errors import UserError

DEFAULT_PYTHON = deployments.FOLDER.parent / ".trlx-venv" / "bin" / "python"
"""The interpreter that `make trlx-env` installs in a checkout."""
ACCELERATE_CONFIG_GPU = "trlx/zero2.yaml"
"""The published recipe's accelerate configuration for GPUs.  trlx supports several processes only with DeepSpeed."""


def trlx_python() -> str:
    """The interpreter of the trlx environment: TRLX_PYTHON if it is set, else DEFAULT_PYTHON.

    Raises UserError if there is no such file.
    """
    configured = os.environ.get("TRLX_PYTHON")
    python = Path(expand_home(configured)) if configured else DEFAULT_PYTHON
    if not python.is_file():
        problem = f"TRLX_PYTHON ({configured}) is not a file" if configured else "trainer (trlx) has no environment"
        requirements = deployments.path_of("trlx/requirements.txt")
        raise UserError(
            f"{problem}; run `make trlx-env` in a checkout, or install {requirements} into an environment with "
            "Python 3.11 and set TRLX_PYTHON to its python, or set trainer to own"
        )
    return str(python.absolute())


@contextmanager
def import_path() -> Iterator[Path]:
    """A temporary folder for PYTHONPATH from which `rlhf` can be imported, and nothing else.

    The folder that holds the installed `rlhf` will not do: it may be site-packages, whose libraries would then replace
    those of the trlx environment.
    """
    with TemporaryDirectory(prefix="rlhf-trlx-") as folder:
        package = Path(rlhf.__file__).parent
        (Path(folder) / package.name).symlink_to(package, target_is_directory=True)
        yield Path(folder)
