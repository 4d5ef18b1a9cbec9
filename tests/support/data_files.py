"""Writes data files in every form that is read, and finds real ones beside the checkout."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tests.support.paths import SHARED

"""Folder with real data; tests that want it are skipped where it is missing."""


def dialogue(question: str, answer: str) -> str:
    """A dialogue of one turn each, in HH layout."""
    return f"\n\nHuman: {question}\n\nAssistant:{answer}"


def hh_row(question: str, chosen: str = " Yes.", rejected: str = " No.") -> dict[str, object]:
    """A row in HH layout."""
    return {"chosen": dialogue(question, chosen), "rejected": dialogue(question, rejected)}


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write rows in the form that the name of `path` asks for; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.name.endswith(".parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def shared(*parts: str) -> Path:
    """A path in the folder of real data; skips the test where it is missing."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no {path}; set RLHF_SHARED to the folder with real data")
    return path
