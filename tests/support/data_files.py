"""Writes data files in every format that is read, and finds real ones next to the checkout."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tests.support.paths import SHARED


def dialogue(question: str, response: str) -> str:
    """A dialogue with one turn of each speaker, in HH layout."""
    return f"\n\nHuman: {question}\n\nAssistant:{response}"


def hh_row(question: str, chosen: str = " Yes.", rejected: str = " No.") -> dict[str, object]:
    """A row in HH layout."""
    return {"chosen": dialogue(question, chosen), "rejected": dialogue(question, rejected)}


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write rows in the format that the name of `path` implies; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.name.endswith(".parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def shared(*parts: str) -> Path:
    """A path in the folder of real data; skips the test if it does not exist."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no {path}; set RLHF_SHARED to the folder with real data")
    return path
