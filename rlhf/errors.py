"""Errors that the user can mend, told apart from our own faults."""

from __future__ import annotations

import errno

DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class UserError(ValueError):
    """Bad input or surroundings.  The message alone must tell the user what to change; it is shown without a trace."""


def user_message(error: BaseException) -> str | None:
    """The one line for the user where `error` is theirs to mend (bad input, full or read-only disk), else None."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
        where = f" {error.filename}" if error.filename else ""
        return f"cannot write{where}: {error.strerror}; free space or choose another folder with --workspace"
    if "No space left on device" in str(error):  # safetensors and torch wrap the operating system's error
        return f"cannot write: no space left on device ({error}); free space or choose another folder with --workspace"
    return None


def brief(error: Exception) -> str:
    """Kind and first line of an error, for use within a sentence."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no details'}"
