"""Arguments that several commands share, and the form of their examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Profile = Annotated[
    str, typer.Argument(metavar="PROFILE", help="Name of a shipped profile (see `rlhf profiles`) or a .yaml file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: --set ppo.steps=20. May be repeated."),
]
Workspace = Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of artifacts and results.")]
Storage = Annotated[
    str,
    typer.Option("--workspace", metavar="FOLDER", help="Folder of artifacts and results, or s3://bucket/prefix."),
]


def examples(*commands: str) -> str:
    """The text at the end of a command's help."""
    return "\n".join(["Examples:" if len(commands) > 1 else "Example:", *commands])
