"""What the user is told about an error."""

from __future__ import annotations

import errno
import os

import pytest

from rlhf.errors import UserError, user_message


def system_error(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("data.source: no such file"), "data.source: no such file"),
        (
            system_error(errno.ENOSPC, "/runs/a"),
            "cannot write /runs/a: No space left on device; free space or choose another folder with --workspace",
        ),
        (
            system_error(errno.EDQUOT, "/runs/a"),
            "cannot write /runs/a: Disk quota exceeded; free space or choose another folder with --workspace",
        ),
        (
            system_error(errno.EROFS),
            "cannot write: Read-only file system; free space or choose another folder with --workspace",
        ),
        (
            system_error(errno.EACCES, "/data/hh.jsonl"),
            "no permission for /data/hh.jsonl: Permission denied; change its permissions or choose another path",
        ),
        (
            system_error(errno.EPERM),
            "no permission for a file: Operation not permitted; change its permissions or choose another path",
        ),
        (RuntimeError("No space left on device (os error 28)"), "cannot write: no space left on device (No space left"),
    ],
)
def test_an_error_that_the_user_can_fix_is_one_line_with_a_remedy(error: Exception, message: str) -> None:
    line = user_message(error)
    assert line is not None
    assert line.startswith(message)
    assert "\n" not in line


@pytest.mark.parametrize("error", [ValueError("bug"), system_error(errno.ENOENT, "/runs/a"), KeyboardInterrupt()])
def test_other_errors_have_no_message_for_the_user(error: BaseException) -> None:
    assert user_message(error) is None
