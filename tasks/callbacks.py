"""What a person sees while stages run: progress in the Prefect UI and, where one is attached, in the terminal."""

from __future__ import annotations

import re
import time
from typing import Protocol
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from tasks.launch import Progress, StageCallbacks

UI_SECONDS = 5.0
"""Least time between two updates of a progress bar in the Prefect UI."""


class Display(Protocol):
    """A terminal, or whatever else wants to hear of the stages of this process."""

    def progress(self, label: str, progress: Progress) -> None:
        """A stage told how far it is."""

    def note(self, label: str, message: str) -> None:
        """A stage told something that matters."""

    def finished(self, label: str, state: str) -> None:
        """A stage reached its final state, by Prefect's name of it."""


displays: list[Display] = []
"""Those that are attached to this process."""


def ui_callbacks(label: str) -> StageCallbacks:
    """A listener that passes a stage's progress and notes on to the Prefect UI and to every display."""
    logger = get_run_logger()
    artifacts: dict[str, tuple[UUID | None, float]] = {}

    def on_progress(progress: Progress) -> None:
        for display in displays:
            display.progress(label, progress)
        percent = 100.0 * progress.done / max(1, progress.total)
        now = time.monotonic()
        artifact, told = artifacts.get(progress.phase, (None, -UI_SECONDS))
        if now - told < UI_SECONDS and progress.done < progress.total:
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
            logger.warning("no progress bar for the moment: %s", error)  # a server that is away must not end a stage
        artifacts[progress.phase] = (artifact, now)

    def on_note(message: str) -> None:
        logger.info(message)
        for display in displays:
            display.note(label, message)

    return StageCallbacks(on_progress, on_note)
