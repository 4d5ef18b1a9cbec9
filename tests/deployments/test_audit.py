"""The audit of the lock files in CI: it fails for vulnerabilities and for its own faults, not for lack of a network."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

UNREACHABLE = "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='db', port=443): Max retries exceeded"


def audit(folder: Path, output: str, code: int) -> subprocess.CompletedProcess[str]:
    """Run .ci/audit in a copy of the repository whose auditor prints `output` and exits with `code`."""
    auditor = folder / ".venv" / "bin" / "pip-audit"
    auditor.parent.mkdir(parents=True)
    (folder / "output").write_text(output)
    auditor.write_text(f'#!/bin/sh\necho "$@" > arguments\ncat output >&2\nexit {code}\n')
    auditor.chmod(0o755)
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    command = ["bash", str(folder / ".ci" / "audit"), "a.lock", "b.lock"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("output", "code", "expected"),
    [
        ("No known vulnerabilities found\n", 0, 0),
        ("Found 1 known vulnerability in 1 package\nName Version ID\nh11  0.1     CVE-1\n", 1, 1),
        ("ERROR: requirement without a hash\n", 1, 1),
        (f"Traceback (most recent call last):\n  ...\n{UNREACHABLE}\n", 1, 0),
    ],
)
def test_the_audit_fails_for_all_but_a_missing_network(tmp_path: Path, output: str, code: int, expected: int) -> None:
    done = audit(tmp_path, output, code)
    assert done.returncode == expected
    assert (tmp_path / "arguments").read_text().startswith("--requirement a.lock --requirement b.lock ")
    if UNREACHABLE in output:
        assert done.stdout == f"audit: skipped, the database of vulnerabilities cannot be reached: {UNREACHABLE}\n"
    else:
        assert done.stdout == output
