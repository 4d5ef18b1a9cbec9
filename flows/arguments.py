"""Arguments that several commands share, and what they do before they import Prefect."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

Profile = Annotated[str, typer.Argument(help="Name of a shipped profile (see `rlhf profiles`) or a .yaml file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Change one setting, as in --set ppo.steps=20; again for more.")
]
Workspace = Annotated[Path, typer.Option(help="Folder of artifacts and results.")]

Storage = Annotated[str, typer.Option("--workspace", help="Folder of artifacts and results, or s3://bucket/prefix.")]


def prepare_prefect() -> None:
    """Settings that Prefect reads when it is imported: quiet, no call home, patience on a busy machine, a heartbeat."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
    os.environ.setdefault("DO_NOT_TRACK", "1")
