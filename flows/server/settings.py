"""Prefect as this project wants it: its settings, and how it is imported."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


def prepare_prefect() -> None:
    """Call before the first import of Prefect: quiet, no call home, patience on a busy machine, a heartbeat."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
    os.environ.setdefault("DO_NOT_TRACK", "1")


@contextmanager
def imports_for_good() -> Iterator[None]:
    """Import within: the collector, which would look through Prefect over and over, leaves alone what stays anyway."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
