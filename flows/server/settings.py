"""Defaults for Prefect: its settings, and how it is imported."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


def set_prefect_defaults() -> None:
    """Set environment variables: no console logs, no analytics, long timeouts, a heartbeat.

    Call this before the first import of Prefect.  Variables that are set already stay unchanged.
    """
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
    os.environ.setdefault("DO_NOT_TRACK", "1")


@contextmanager
def gc_paused_import() -> Iterator[None]:
    """For slow imports: pause garbage collection, then freeze the imported objects so later collections skip them."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
