"""Files that describe where the workflow runs: deployments, pools, accelerate configurations, images, AWS."""

from __future__ import annotations

from pathlib import Path

from rlhf.errors import UserError

FOLDER = Path(__file__).parent


def path_of(name: str) -> Path:
    """Path of a file or folder of this package, by its name relative to it.

    Raises UserError if it is missing, as in an installation that was copied without its data files.
    """
    path = FOLDER / name
    if not path.exists():
        raise UserError(f"{path}: missing from this installation; install rlhf-workflow again")
    return path
