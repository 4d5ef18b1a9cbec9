"""Errors that the user can fix, as opposed to bugs."""

from __future__ import annotations

import errno
import re

WRITE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
PERMISSION_ERRNOS = (errno.EACCES, errno.EPERM)
SEE_ELSEWHERE = re.compile(r"above report|(look at|see) the (above|report)", re.IGNORECASE)
"""Lines of an error that say where its reason was printed."""
BRIEF_CHARACTERS = 300
"""Longest quotation of another library's error."""


class UserError(ValueError):
    """Wrong input or environment.  The message must tell the user what to change; it is shown without a traceback."""


def user_message(error: BaseException) -> str | None:
    """The one line for the user if they can fix `error` (wrong input, full disk, no permission), else None."""
    if isinstance(error, UserError):
        return str(error)
    path = f" {error.filename}" if isinstance(error, OSError) and error.filename else ""
    if isinstance(error, OSError) and error.errno in WRITE_ERRNOS:
        return f"cannot write{path}: {error.strerror}; free space or choose another folder with --workspace"
    if isinstance(error, OSError) and error.errno in PERMISSION_ERRNOS:
        return f"no permission for{path or ' a file'}: {error.strerror}; change its permissions or choose another path"
    if "No space left on device" in str(error):  # safetensors and torch wrap the operating system's error
        return f"cannot write: no space left on device ({error}); free space or choose another folder with --workspace"
    return None


def brief(error: BaseException) -> str:
    """Type and reason of another library's error, to quote in a message: one line without control characters.

    The reason is the first line, with the next one if it only introduces that.  Lines that refer to a report, which
    the program does not show, are left out.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not SEE_ELSEWHERE.search(line)] or lines or ["no details"]
    reason = " ".join(told[:2]) if told[0].endswith((":", "'")) else told[0]
    printable = "".join(character if character.isprintable() else " " for character in reason)
    return f"{type(error).__name__}: {printable[:BRIEF_CHARACTERS]}"
