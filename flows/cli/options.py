"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Profile = Annotated[str, typer.Argument(help="Name of a shipped profile (see `rlhf profiles`) or a .yaml file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Change one setting, as in --set ppo.steps=20; again for more.")
]
Workspace = Annotated[Path, typer.Option(help="Folder of artifacts and results.")]
Storage = Annotated[str, typer.Option("--workspace", help="Folder of artifacts and results, or s3://bucket/prefix.")]
