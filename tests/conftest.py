"""Fixtures for all tests."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from flows.server.undeploy import undeploy
from tests.support.stages import Stages

if TYPE_CHECKING:
    from playwright.sync_api import Browser


# A shell that starts the tests in the background makes them, and their child processes, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """API address of a Prefect server for the tests."""
    with prefect_test_harness(server_startup_timeout=120):
        api = PREFECT_API_URL.value()
        assert api is not None
        yield str(api)


@pytest.fixture(scope="module")
def undeployed(prefect_server: str) -> Iterator[None]:  # noqa: ARG001 the server that is cleaned
    """Undeploy after the tests of a module, because the automation can freeze a server on SQLite."""
    yield
    undeploy(remove=True)


@pytest.fixture(scope="session")
def stages() -> Iterator[Stages]:
    """Runs stages as separate processes."""
    with Stages() as stages:
        yield stages


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium; apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium_browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield chromium_browser
        chromium_browser.close()
