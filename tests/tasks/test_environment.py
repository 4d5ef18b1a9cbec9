"""What a shell, a cluster or another Prefect server has left does not reach a process that is private to a run."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.request import proxy_bypass

import httpx
import pytest

from rlhf.errors import UserError
from tasks import environment
from tests.support.hostile import FOREIGN_ENVIRONMENT, hostile_folder


@pytest.mark.parametrize("python_path", [None, "", ".", os.pathsep, "sub:.:", "{absolute}:."])
def test_an_isolated_process_imports_nothing_from_the_current_folder(tmp_path: Path, python_path: str | None) -> None:
    folder, absolute = hostile_folder(tmp_path / "current"), tmp_path / "absolute"
    absolute.mkdir()
    (absolute / "wanted.py").touch()
    child = {} if python_path is None else {"PYTHONPATH": python_path.format(absolute=absolute)}
    environment.isolate(child)
    wanted = "wanted" if "{absolute}" in (python_path or "") else "os"
    for arguments in (["-c", f"import typing, json, {wanted}"], ["-m", "json.tool", "--help"]):
        done = subprocess.run(
            [sys.executable, "-S", *arguments], env=child, cwd=folder, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("python_path", [os.pathsep, ".", ":{folder}/library"])
def test_the_command_is_not_led_astray_by_a_relative_entry_of_pythonpath(tmp_path: Path, python_path: str) -> None:
    (tmp_path / "yaml.py").write_text("raise SystemExit('a file of the current folder was run')\n")
    (tmp_path / "typer.py").write_text("raise SystemExit('a file of the current folder was run')\n")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("rlhf")), "profiles", "show", "quickstart"],
        env=os.environ | {"PYTHONPATH": python_path.format(folder=tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "run_name: quickstart" in done.stdout


def test_variables_of_other_launchers_are_removed_and_others_stay() -> None:
    kept = {"CUDA_VISIBLE_DEVICES": "1", "NCCL_SOCKET_IFNAME": "eth0", "SLURM_JOB_ID": "7", "PATH": "/bin"}
    child = FOREIGN_ENVIRONMENT | kept
    environment.forget_launchers(child)
    left = child.keys() - kept.keys()
    assert {name for name in left if "PREFECT" not in name and "proxy" not in name.lower()} == set()
    assert {name: child[name] for name in kept} == kept


def test_settings_of_other_servers_are_removed_and_those_of_this_machine_stay() -> None:
    kept = {"PREFECT_HOME": "/home", "PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT_WORKER_QUERY_SECONDS": "1"}
    child = {
        **{name: value for name, value in FOREIGN_ENVIRONMENT.items() if "PREFECT" in name},
        **dict.fromkeys(("PREFECT_API_KEY", "PREFECT_API_URL", "PREFECT_CLIENT_CUSTOM_HEADERS", "PREFECT_UI_URL"), "x"),
        **kept,
    }
    environment.forget_other_servers(child)
    assert child == kept


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "intranet"}, "intranet,127.0.0.1,localhost,::1"),
        ({"no_proxy": "a, localhost", "NO_PROXY": "ignored"}, "a,localhost,127.0.0.1,::1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_no_proxy_stands_between_processes_of_this_machine(
    before: dict[str, str], after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = {"http_proxy": "http://proxy:1", **before}
    environment.reach_loopback_directly(child)
    assert child["no_proxy"] == child["NO_PROXY"] == after
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in child.items():
        monkeypatch.setenv(name, value)
    assert proxy_bypass("127.0.0.1:4200")
    assert proxy_bypass("localhost")


SOCKS = [] if find_spec("socksio") else ["socks5://127.0.0.1:1080"]
UNUSABLE = [*SOCKS, "socks4://127.0.0.1:1080", "ftp://proxy", "http://proxy:port"]


@pytest.mark.parametrize("address", UNUSABLE)
def test_an_unusable_proxy_is_hidden_from_our_clients_and_kept_for_stages(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = {"ALL_PROXY": address, "https_proxy": "http://proxy:3128", "PATH": "/bin"}
    before = dict(child)
    environment.hide_unusable_proxies(child)
    assert {name for name in child if not name.startswith(environment.KEPT_FOR_STAGES)} == {"https_proxy", "PATH"}
    for name in ("all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in child.items():
        monkeypatch.setenv(name, value)
    httpx.Client().close()
    environment.restore_hidden_proxies(child)
    assert child == before


@pytest.mark.parametrize("address", UNUSABLE)
def test_a_server_on_another_machine_needs_a_usable_proxy(address: str) -> None:
    with pytest.raises(UserError, match=r"^environment variable ALL_PROXY: .*unset ALL_PROXY$") as raised:
        environment.require_usable_proxies({"ALL_PROXY": address})
    assert "\n" not in str(raised.value)
    environment.require_usable_proxies({"ALL_PROXY": "proxy:3128", "http_proxy": "http://user:p@proxy:3128"})


def test_a_user_whom_the_system_does_not_know_gets_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    known: dict[str, str] = {}
    environment.name_unknown_user(known)
    assert known == {}

    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    child: dict[str, str] = {}
    environment.name_unknown_user(child)
    assert child == {"LOGNAME": f"uid{os.getuid()}"}


def test_a_folder_of_prefect_that_cannot_be_written_is_one_line_with_a_remedy(tmp_path: Path) -> None:
    environment.require_prefect_home({"PREFECT_HOME": str(tmp_path / "new" / "home")})
    assert (tmp_path / "new" / "home").is_dir()
    file = tmp_path / "file"
    file.touch()
    for place in (file, file / "below", Path("/proc/none")):
        with pytest.raises(UserError, match=r"^PREFECT_HOME \(.*\) cannot be written: .*; set .*PREFECT_HOME, or HOME"):
            environment.require_prefect_home({"PREFECT_HOME": str(place)})
