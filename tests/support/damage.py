"""Damage to a file, as it is met after crashes and on worn disks."""

from __future__ import annotations

import os
from pathlib import Path


def flip_a_bit(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_pipe(path: Path) -> None:
    """Put a named pipe, which keeps its reader waiting, in the place of a file."""
    path.unlink()
    os.mkfifo(path)
