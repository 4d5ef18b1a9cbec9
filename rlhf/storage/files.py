"""Files: written atomically or durably, hashed, replaced as a whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from uuid import uuid4


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that `path` holds either the old content or all of the new, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def place_model(source: Path, folder: Path) -> None:
    """Put the files of the model at `source` into `folder`, which is then whole or not there at all."""
    temporary, replaced = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (temporary, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        link_or_copy(file, temporary / file.name)
    if folder.exists():
        folder.rename(replaced)
    temporary.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link for weights, which nobody edits; a copy of everything else, and where there can be no link."""
    if source.suffix == ".safetensors":
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)
    else:
        shutil.copyfile(source, target)


def read_jsonl(path: Path) -> list[dict[str, object]]:
    """The rows of one of our own JSON Lines files."""
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> None:
    """Write rows as JSON Lines.  Model text that is no valid Unicode is kept by escaping."""
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
