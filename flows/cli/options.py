"""Arguments that several commands share, and the form of their examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlhf.errors import UserError


def _home_expanded(folder: str) -> str:
    """The folder as the shell would have given it, which leaves `--workspace=~/runs` as it is."""
    if not folder:
        raise UserError("--workspace: must not be empty; name a folder, . for the current one")
    if not folder.startswith("~"):
        return folder
    from rlhf.config import expand_home

    return expand_home(folder)


def _home_expanded_path(folder: Path) -> Path:
    return Path(_home_expanded(str(folder)))


Profile = Annotated[
    str, typer.Argument(metavar="PROFILE", help="Name of a shipped profile (see `rlhf profiles`) or a .yaml file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: --set ppo.steps=20. May be repeated."),
]
Workspace = Annotated[
    Path, typer.Option(metavar="FOLDER", callback=_home_expanded_path, help="Folder of artifacts and results.")
]
Storage = Annotated[
    str,
    typer.Option(
        "--workspace",
        metavar="FOLDER",
        callback=_home_expanded,
        help="Folder of artifacts and results, or s3://bucket/prefix.",
    ),
]


def examples(*commands: str) -> str:
    """The text at the end of a command's help."""
    return "\n".join(["Examples:" if len(commands) > 1 else "Example:", *commands])
