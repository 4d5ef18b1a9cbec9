"""Libraries that break each other silently when one of them moves."""

from __future__ import annotations

from importlib import metadata

import pytest


@pytest.mark.parametrize(
    ("package", "version", "why"),
    [
        ("prefect", "3.8.8", "the newest that goes with the pins below"),
        ("fastapi", "0.150.0", "0.155 and later crash Prefect's server"),
        ("SQLAlchemy", "2.0.", "with 2.1 Prefect's scheduler inserts no runs, and says so in the server's log alone"),
    ],
)
def test_what_prefect_needs_is_pinned(package: str, version: str, why: str) -> None:
    assert metadata.version(package).startswith(version), why
