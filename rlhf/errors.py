"""Errors that the user can fix, as opposed to bugs."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path

FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
PLACE_ERRNOS = (errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
PERMISSION_ERRNOS = (errno.EACCES, errno.EPERM)
PLACES = {
    "PREFECT_HOME": "~/.prefect",
    "RLHF_CACHE": "~/.cache/rlhf",
    "HF_HOME": "~/.cache/huggingface",
}
"""Environment variables that move a folder, with the folder without them."""
SEE_ELSEWHERE = re.compile(r"above report|(look at|see) the (above|report)", re.IGNORECASE)
"""Lines of an error that say where its reason was printed."""
BRIEF_CHARACTERS = 300
"""Longest quotation of another library's error."""
MAX_PATH = 4096
"""Characters of the longest path on Linux."""


class UserError(ValueError):
    """Wrong input or environment.  The message must tell the user what to change; it is shown without a traceback."""


def user_message(error: BaseException) -> str | None:
    """The one line for the user if they can fix `error` (wrong input, full disk, no permission), else None."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return _message_of_system_error(error)
    if "No space left on device" in str(error):  # safetensors and torch wrap the operating system's error
        return f"cannot write: no space left on device ({error}); free space or {_other_folder(None)}"
    return None


def _message_of_system_error(error: OSError) -> str | None:
    path = None if error.filename is None else os.fsdecode(error.filename)
    name = "" if path is None else f" {quoted(path)}"
    if error.errno in FULL_ERRNOS:
        return f"cannot write{name}: {error.strerror}; free space or {_other_folder(path)}"
    if error.errno in PLACE_ERRNOS:
        return f"cannot write{name}: {error.strerror}; {_other_folder(path)}"
    if error.errno in PERMISSION_ERRNOS:
        other = "choose another path" if _variable_of(path) is None else _other_folder(path)
        return f"no permission for{name or ' a file'}: {error.strerror}; change its permissions or {other}"
    return None


def _other_folder(path: str | None) -> str:
    """What to do so that nothing is written at `path`: the variable that moves it, else --workspace."""
    if variable := _variable_of(path):
        return f"set the environment variable {variable} to another folder"
    is_temporary = path is not None and _is_below(path, tempfile.gettempdir())
    return f"choose another folder with --workspace{' (temporary files: TMPDIR)' if is_temporary else ''}"


def _variable_of(path: str | None) -> str | None:
    """The environment variable that says where the folder of `path` is, or None if that is no such folder."""
    if path is None:
        return None
    folders = {name: os.environ.get(name) or default for name, default in PLACES.items()}
    return next((name for name, folder in folders.items() if _is_below(path, folder)), None)


def _is_below(path: str, folder: str) -> bool:
    try:
        return Path(path).absolute().is_relative_to(Path(folder).expanduser().absolute())
    except RuntimeError:  # there is no home folder
        return False


def quoted(value: object, max_characters: int = MAX_PATH) -> str:
    """A name or value from outside in one line of a message: a printable text as it is, all else as Python writes it.

    Everything after `max_characters` is left out.
    """
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= max_characters else f"{text[:max_characters]}..."


def single_line(text: str) -> str:
    """A message of another library as one line: without line breaks, other control characters and repeated spaces."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def brief(error: BaseException) -> str:
    """Type and reason of another library's error, to quote in a message: one line without control characters.

    The reason is the first line, with the next one if it only introduces that.  Lines that refer to a report, which
    the program does not show, are left out.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not SEE_ELSEWHERE.search(line)] or lines or ["no details"]
    reason = " ".join(told[:2]) if told[0].endswith((":", "'")) else told[0]
    return f"{type(error).__name__}: {single_line(reason)[:BRIEF_CHARACTERS]}"
