"""Finished artifacts without a stage that makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf.storage.artifacts import Manifest, record_files, write_manifest


def finish(folder: Path, stage: str, fingerprint: str, **fields: Any) -> None:
    """Make `folder` the finished artifact of `stage`; `fields` are the fields of its manifest that the test needs."""
    known = {
        "config": {},
        "inputs": {},
        "metrics": {},
        "versions": {},
        "seed": 1,
        "seconds": 1.0,
        "device": "cpu",
        "processes": 1,
        "finished_at": "2026-01-01T00:00:00+00:00",
    }
    manifest = {"stage": stage, "fingerprint": fingerprint, "files": record_files(folder), **known, **fields}
    write_manifest(folder, Manifest.model_validate(manifest))
