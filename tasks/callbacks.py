"""Progress and notes of running stages, shown in the Prefect UI and in the terminal."""

from __future__ import annotations

import re
import time
from typing import Protocol
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from tasks.launch import StageCallbacks
from tasks.messages import Progress

UI_SECONDS = 5.0
"""Minimum time between two updates of a progress bar in the Prefect UI."""


class Display(Protocol):
    """Shows the stages of this process, for example in a terminal."""

    def progress(self, label: str, progress: Progress) -> None:
        """Show the progress of a stage."""

    def note(self, label: str, message: str) -> None:
        """Show a message of a stage."""

    def finished(self, label: str, state: str) -> None:
        """Show the final state of a stage, by Prefect's name of it."""


attached_displays: list[Display] = []
"""Displays that show the stages of this process."""


def ui_callbacks(label: str) -> StageCallbacks:
    """Callbacks that show the progress and notes of a stage in the Prefect UI and on every attached display."""
    logger = get_run_logger()
    artifacts: dict[str, tuple[UUID | None, float]] = {}

    def on_progress(progress: Progress) -> None:
        for display in attached_displays:
            display.progress(label, progress)
        percent = min(100.0, 100.0 * progress.done / max(1, progress.total))
        now = time.monotonic()
        artifact, updated = artifacts.get(progress.phase, (None, -UI_SECONDS))
        if now - updated < UI_SECONDS and progress.done < progress.total:
            return
        try:
            if artifact is None:
                key = re.sub(r"[^a-z0-9]+", "-", f"{label}-{progress.phase}".lower()).strip("-")
                created = create_progress_artifact(percent, key=key, description=f"{label}: {progress.phase}")
                assert isinstance(created, UUID)
                artifact = created
            else:
                update_progress_artifact(artifact, percent)
        except httpx.HTTPError as error:
            logger.warning("The progress bar could not be updated: %s", error)  # not a reason to fail the stage
        artifacts[progress.phase] = (artifact, now)

    def on_note(message: str) -> None:
        logger.info(message)
        for display in attached_displays:
            display.note(label, message)

    return StageCallbacks(on_progress, on_note)
