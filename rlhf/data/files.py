"""The data files of a user: which files of a folder are data, and which are passed over."""

from __future__ import annotations

import stat
from pathlib import Path

from rlhf.data.rows import MAX_SHOWN
from rlhf.errors import UserError, quoted
from rlhf.runtime.stage import note
from rlhf.storage.user_folders import walk_folder

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
NO_SHARDS = (
    *(".md", ".rst", ".txt", ".html", ".pdf", ".bib", ".cff", ".png", ".jpg", ".svg", ".py", ".ipynb", ".sh"),
    *(".yaml", ".yml", ".toml", ".cfg", ".ini", ".lock", ".log", ".crc", ".md5", ".sha256", ".sha512", ".metadata"),
    *("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json"),
)
"""Endings of files that stand beside data and hold none."""
DEAD_LINK = "a link that leads nowhere; mend or remove it"
COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ".lz4", ".zip")
ENDINGS_SHOWN = 5


def find_files(source: Path) -> list[Path]:
    """The data files of `source`: the file itself, or all data files in the folder and its subfolders, sorted.

    Linked folders are followed, hidden files and backups are not data (walk_folder).  A note names the endings of other
    files that may be data too.  Raises UserError if there is no data file, or if one is a pipe, a device or a link that
    leads nowhere.
    """
    mode = _mode(source)
    if mode is None:
        problem = DEAD_LINK if _is_link(source) else "no such file or folder"
        raise UserError(f"{quoted(str(source), 300)}: {problem}")
    if not stat.S_ISDIR(mode):
        if not source.name.endswith(SUFFIXES):
            raise UserError(f"{quoted(str(source))}: not a data file; give one that ends in {', '.join(SUFFIXES)}")
        return [_ordinary(source)]
    paths = walk_folder(source)
    for path in paths:
        if path.is_symlink() and _mode(path) is None:
            raise UserError(f"{quoted(str(path))}: {DEAD_LINK}")
    files = [_ordinary(path) for path in paths if path.name.endswith(SUFFIXES)]
    others = _describe([path for path in paths if _may_be_data(path.name)])
    if not files:
        found = f" (found: {others})" if others else ""
        raise UserError(f"{quoted(str(source))}: a folder without data files{found}; they end in {', '.join(SUFFIXES)}")
    if others:
        note(f"{source}: passed over {others}; only files that end in {', '.join(SUFFIXES)} are read")
    return files


def _ordinary(path: Path) -> Path:
    mode = _mode(path)
    if mode is None or not stat.S_ISREG(mode):
        raise UserError(f"{quoted(str(path))}: not an ordinary file; copy its content to a file, or remove it")
    if not str(path).isprintable():
        raise UserError(
            f"{quoted(str(path))}: a file name with control characters or of an unknown encoding; rename it"
        )
    return path


def _mode(path: Path) -> int | None:
    """The type of a file or folder as in stat, after links; None if there is none."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return None


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:  # such as a name that is too long
        return False


def _may_be_data(name: str) -> bool:
    """Whether a file may be a shard that is not read.  Names in capitals, such as LICENSE or _SUCCESS, are none."""
    return not name.endswith((*SUFFIXES, *NO_SHARDS)) and not name.isupper()


def _describe(paths: list[Path]) -> str:
    """How many files have which ending, such as "3 files '.csv' (such as 'a.csv')"."""
    examples: dict[str, list[str]] = {}
    for path in paths:
        compressed = path.suffix in COMPRESSED
        examples.setdefault("".join(path.suffixes[-2 if compressed else -1 :]), []).append(path.name[:MAX_SHOWN])
    parts = [
        f"{len(names)} {'file' if len(names) == 1 else 'files'} {ending!a} (such as {names[0]!a})"
        for ending, names in sorted(examples.items())[:ENDINGS_SHOWN]
    ]
    more = [f"{len(examples) - ENDINGS_SHOWN} more endings"] if len(examples) > ENDINGS_SHOWN else []
    return ", ".join(parts + more)
