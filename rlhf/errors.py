"""Errors that the user can fix, as opposed to bugs."""

from __future__ import annotations

import errno

WRITE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
PERMISSION_ERRNOS = (errno.EACCES, errno.EPERM)


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


def brief(error: Exception) -> str:
    """Type and first line of an error, to quote in a message."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no details'}"
