"""Folders of users: which of their files count, for every reader and for fingerprints."""

from __future__ import annotations

import os
from pathlib import Path

from rlhf.errors import UserError, quoted

MAX_ENTRIES = 1_000_000
"""More files and folders than this are no data folder, but a link to a whole disk."""
LEFTOVERS = ("__MACOSX", "$RECYCLE.BIN", "lost+found")
"""Folders that other programs leave behind, besides hidden ones."""
BACKUPS = ("~", ".bak", ".orig", ".swp", ".tmp", ".part")
"""Endings of copies that editors and downloads leave behind."""


def walk_folder(folder: Path) -> list[Path]:
    """The paths below a user's folder that are not folders, sorted, with those in linked folders.

    Hidden files and folders, LEFTOVERS and BACKUPS are left out.  A folder that several links lead to counts once, so a
    link to a folder above it does no harm.  Raises UserError if a folder cannot be read, or beyond MAX_ENTRIES.
    """
    paths: list[Path] = []
    known: set[Path] = set()
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            real = current.resolve()
            if real in known:
                continue
            known.add(real)
            entries = [Path(entry) for entry in os.scandir(current) if not _is_left_behind(entry.name)]
            folders = [entry for entry in entries if entry.is_dir()]
        except (OSError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(
                f"{quoted(str(current))}: cannot be read ({reason}); change its permissions or remove it"
            ) from error
        pending += sorted(folders, reverse=True)
        paths += set(entries).difference(folders)
        if len(paths) + len(known) > MAX_ENTRIES:
            raise UserError(f"{folder}: more than {MAX_ENTRIES} files; give a folder that holds nothing but the data")
    return sorted(paths)


def _is_left_behind(name: str) -> bool:
    return name.startswith(".") or name in LEFTOVERS or name.endswith(BACKUPS)
