"""Settings of Prefect that it cannot use are one line for the user, wherever they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("file", "content", "variables", "message"),
    [
        ("pyproject.toml", b"[[[", {}, "pyproject.toml"),
        ("prefect.toml", b"\xff", {}, "utf-8"),
        (".env", b"\xff\xfe=\0", {}, "utf-8"),
        ("unused", b"", {"PREFECT_LOGGING_LEVEL": "7"}, r"LoggingSettings level \('7'\): .*'DEBUG'"),
    ],
)
@pytest.mark.slow
def test_broken_settings_are_one_line(
    tmp_path: Path, file: str, content: bytes, variables: dict[str, str], message: str
) -> None:
    (tmp_path / file).write_bytes(content)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("rlhf")), "run", "quickstart", "--workspace", "runs"],
        env=os.environ | {"PREFECT_HOME": str(tmp_path / "home")} | variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(rf"error: Prefect's settings: .*{message}.*; correct or remove it: .*\n", done.stderr)
