"""Names, JSON and files from outside: none may lead out of its folder, end in a trace or keep the reader waiting."""

from __future__ import annotations

import json
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from rlhf.errors import UserError

MAX_INTEGER_DIGITS = 100
"""Longer integers fit into no number that this program computes with."""


class MalformedJsonError(ValueError):
    """Content that is no JSON, or JSON that cannot be used.  The message is one line."""


def is_plain_path(name: str) -> bool:
    """Whether a name from outside is a relative path that stays below its folder, written in its shortest form."""
    path = PurePosixPath(name)
    is_printable = name.isprintable() and "\\" not in name
    return is_printable and bool(path.parts) and path.as_posix() == name and ".." not in path.parts and name[0] != "/"


def is_plain_name(name: str) -> bool:
    """Whether a name from outside is the plain name of one file or folder, without a path."""
    return is_plain_path(name) and "/" not in name


def path_inside(folder: Path, name: str) -> Path:
    """The path of the file that a manifest, key or list from outside calls `name`, below `folder`.

    Raises UserError if the name is absolute, goes up, is empty, has a control character or a backslash, or if a link
    below `folder` leads out of it.  The file itself need not exist.
    """
    if not is_plain_path(name):
        raise UserError(f"{folder}: the file name {name[:200]!r} is not a plain path inside this folder")
    path = folder / name
    try:
        leaves = not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:
        raise UserError(f"{folder}: the file name {name[:200]!r} cannot be followed ({error})") from error
    if leaves:
        raise UserError(f"{path}: a link that leads out of {folder}; remove it")
    return path


def parse_json(content: bytes | str) -> Any:
    """The value of a JSON text in UTF-8, with or without a byte order mark.

    Raises MalformedJsonError for anything else, for too deep nesting and for integers of more than MAX_INTEGER_DIGITS.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        return _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise MalformedJsonError(f"not UTF-8 (byte {error.start + 1})") from error
    except MalformedJsonError:
        raise
    except ValueError as error:
        raise MalformedJsonError(f"broken JSON ({error})") from error
    except RecursionError as error:
        raise MalformedJsonError("broken JSON (nested too deeply)") from error


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_INTEGER_DIGITS:
        raise MalformedJsonError(f"an integer of {len(digits)} digits, at most {MAX_INTEGER_DIGITS} are read")
    return int(digits)


_DECODER = json.JSONDecoder(parse_int=_parse_int)


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Content of a file from outside, if it is an ordinary file of at most `max_bytes`.

    Raises UserError otherwise: a pipe or device would keep the reader waiting, a link to itself has no content.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not an ordinary file; copy its content to a file and give that")
        if status.st_size > max_bytes:
            raise UserError(f"{path}: {status.st_size} bytes, but at most {max_bytes} are read; split or shorten it")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
