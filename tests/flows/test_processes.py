"""Servers of our own and their workers: what they inherit, and what they import."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from flows.server.processes import Services, service_environment
from tests.support.hostile import FOREIGN_ENVIRONMENT, hostile_folder

API = "http://127.0.0.1:4200/api"
PREFECT_VARIABLES = {
    "PREFECT_API_URL",
    "PREFECT_PROFILES_PATH",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL",
    "PREFECT_INTERNAL_LOGGING_LEVEL",
    "PREFECT_SERVER_ANALYTICS_ENABLED",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY",
}


def test_a_server_of_our_own_takes_over_nothing_that_is_meant_for_another(tmp_path: Path) -> None:
    environment = service_environment(FOREIGN_ENVIRONMENT | {"ALL_PROXY": "socks4://127.0.0.1:9"}, API, tmp_path)
    assert {name for name in environment if name.startswith("PREFECT_")} == PREFECT_VARIABLES
    assert environment["PREFECT_API_URL"] == API
    assert not Path(environment["PREFECT_PROFILES_PATH"]).exists()
    assert "127.0.0.1" in environment["no_proxy"].split(",")
    assert "ALL_PROXY" not in environment


def test_services_import_nothing_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "stand_in.py").write_text("import typing, json, yaml, rlhf; print(rlhf.__name__)\n")
    monkeypatch.chdir(hostile_folder(tmp_path / "current"))
    monkeypatch.setenv("PYTHONPATH", f":{tmp_path / 'library'}:.")
    with Services(Path("logs"), API) as services:
        services.start("server", "stand_in")
        assert services.running["server"].wait(30) == 0
    assert (tmp_path / "current" / "logs" / "server.log").read_text() == "rlhf\n"


def test_a_service_that_is_stopped_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stand_in.py").write_text("import time; time.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    services = Services(tmp_path / "logs", API)
    services.start("server", "stand_in")
    server = services.running["server"]
    started = time.monotonic()
    services.stop_all()
    assert server.poll() is not None
    assert time.monotonic() - started < 10
    with pytest.raises(ValueError, match="is being stopped"):
        services.start("server", "stand_in")
