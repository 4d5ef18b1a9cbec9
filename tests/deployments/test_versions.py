"""Versions of libraries that break each other silently."""

from __future__ import annotations

from importlib import metadata

import pytest
from packaging.version import Version


@pytest.mark.parametrize(
    ("package", "version", "why"),
    [
        ("prefect", "3.8.8", "the newest version that works with the pins below"),
        ("fastapi", "0.150.0", "0.155 and later crash Prefect's server"),
        ("SQLAlchemy", "2.0.", "with 2.1 Prefect's scheduler creates no runs, and only the server's log says so"),
    ],
)
def test_prefect_and_its_dependencies_have_the_pinned_versions(package: str, version: str, why: str) -> None:
    assert metadata.version(package).startswith(version), why


def test_the_server_still_needs_protection_from_the_garbage_collector() -> None:
    assert Version(metadata.version("prefect")) < Version("3.9"), (
        "check whether the deadlock on SQLite still exists; if not, remove flows/server/gc_safe_server.py and start "
        "`prefect server` in flows/server/processes.py"
    )
