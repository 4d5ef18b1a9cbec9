"""Defaults for Prefect: its settings, the environment that its clients need, and how it is imported."""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from rlhf.errors import UserError, brief
from tasks.environment import (
    LOOPBACK,
    Environment,
    forget_other_servers,
    hide_unusable_proxies,
    name_unknown_user,
    reach_loopback_directly,
    require_prefect_home,
    require_usable_proxies,
)

DEFAULTS = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "DO_NOT_TRACK": "1",
}
"""No console logs, no analytics, long timeouts, a heartbeat."""

SERVER_PASSWORD, PASSWORD = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"
"""Environment variables with the password that a server asks for, and that a client sends."""


def prepare_prefect() -> None:
    """Prepare this process for Prefect, and import it.  Nothing may have imported it before.

    Raises UserError if Prefect's folder cannot be written, or if Prefect cannot use the settings that it finds.
    """
    name_unknown_user(os.environ)
    require_prefect_home(os.environ)
    set_prefect_defaults(os.environ)
    printed = io.StringIO()  # Prefect's warnings, not wanted before our own message
    try:
        with gc_paused_import(), redirect_stderr(printed):
            import_module("prefect.main")
    except ImportError:
        raise
    except Exception as error:
        raise UserError(
            f"Prefect's settings: {_reason(error)}; correct or remove it: an environment variable PREFECT_*, "
            f".env, prefect.toml or pyproject.toml in {Path.cwd()}, or profiles.toml in Prefect's folder"
        ) from error
    sys.stderr.write(printed.getvalue())


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return brief(error)
    problems = [problem for problem in error.errors() if problem["type"] != "default_factory_not_called"]
    return "; ".join(
        f"{error.title} {'.'.join(map(str, problem['loc']))} ({str(problem['input'])[:100]!r}): {problem['msg']}"
        for problem in problems
    )


def set_prefect_defaults(environment: Environment) -> None:
    """Set the variables of DEFAULTS that are not set already."""
    for name, value in DEFAULTS.items():
        environment.setdefault(name, value)


def prepare_for_server(api: str) -> None:
    """Let the clients of this process reach the server at `api`, whatever proxies the environment names.

    Raises UserError if the server is on another machine and a proxy is not usable.
    """
    reach_loopback_directly(os.environ)
    if urlsplit(api).hostname in LOOPBACK:
        hide_unusable_proxies(os.environ)
    else:
        require_usable_proxies(os.environ)


def use_own_server(environment: Environment, api: str, folder: Path) -> None:
    """Name the server at `api`, and none of the settings of another server.  `folder` holds no profiles of Prefect."""
    forget_other_servers(environment)
    set_prefect_defaults(environment)
    environment["PREFECT_API_URL"] = api
    environment["PREFECT_PROFILES_PATH"] = str(folder.absolute() / "no-profiles.toml")


@contextmanager
def gc_paused_import() -> Iterator[None]:
    """For slow imports: pause garbage collection, then freeze the imported objects so later collections skip them."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
