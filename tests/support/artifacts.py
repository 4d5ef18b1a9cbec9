"""Finished artifacts that no stage produced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf.storage.artifacts import Manifest, record_files, write_manifest

DEFAULTS: dict[str, Any] = {
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
"""Fields of a manifest that tests rarely look at."""


def finish(folder: Path, stage: str, fingerprint: str, **fields: Any) -> None:
    """Write the manifest that makes `folder` a finished artifact of `stage`; `fields` override DEFAULTS."""
    manifest = {"stage": stage, "fingerprint": fingerprint, "files": record_files(folder), **DEFAULTS, **fields}
    write_manifest(folder, Manifest.model_validate(manifest))
