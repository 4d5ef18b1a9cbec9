"""What the user is told about an error."""

from __future__ import annotations

import errno
import os
import tempfile

import pytest

from rlhf.errors import UserError, brief, user_message


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
            "cannot write: Read-only file system; choose another folder with --workspace",
        ),
        (
            system_error(errno.ENOTDIR, "/runs/a"),
            "cannot write /runs/a: Not a directory; choose another folder with --workspace",
        ),
        (
            system_error(errno.EROFS, f"{tempfile.gettempdir()}/a"),
            f"cannot write {tempfile.gettempdir()}/a: Read-only file system; choose another folder with --workspace "
            "(temporary files: TMPDIR)",
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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOTDIR])
@pytest.mark.parametrize(
    ("variable", "default"),
    [("PREFECT_HOME", ".prefect"), ("RLHF_CACHE", ".cache/rlhf"), ("HF_HOME", ".cache/huggingface")],
)
def test_the_remedy_names_what_moves_the_folder(
    monkeypatch: pytest.MonkeyPatch, number: int, variable: str, default: str
) -> None:
    monkeypatch.setenv("HOME", "/home/of-someone")
    for name in ("PREFECT_HOME", "RLHF_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    remedy = f"set the environment variable {variable} to another folder"
    for path in (f"/home/of-someone/{default}", f"/home/of-someone/{default}/a/b"):
        line = user_message(system_error(number, path))
        assert line is not None
        assert line.endswith(remedy)
        assert "--workspace" not in line
    monkeypatch.setenv(variable, "~/elsewhere")
    moved, former = (
        user_message(system_error(number, f"/home/of-someone/{folder}/a")) for folder in ("elsewhere", default)
    )
    assert moved is not None
    assert former is not None
    assert moved.endswith(remedy)
    assert variable not in former


def test_a_file_name_cannot_break_the_line() -> None:
    line = user_message(system_error(errno.EACCES, "/data/a\nb\x1b[2J"))
    assert line is not None
    assert line.isprintable()


@pytest.mark.parametrize("error", [ValueError("bug"), system_error(errno.ENOENT, "/runs/a"), KeyboardInterrupt()])
def test_other_errors_have_no_message_for_the_user(error: BaseException) -> None:
    assert user_message(error) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size mismatch for wte\nFor details look at the above report!", "ValueError: size mismatch for wte"),
        ("For details look at the above report!\n  size mismatch for wte", "ValueError: size mismatch for wte"),
        ("Validation error for field 'n':\n    TypeError: expected int", "ValueError: Validation error for field 'n': "
         "TypeError: expected int"),
        ("one\ntwo", "ValueError: one"),
        ("look at the above report", "ValueError: look at the above report"),
        (" \n", "ValueError: no details"),
        ("a\x1b[2Jb\u2028c", "ValueError: a [2Jb"),
        ("x" * 1000, "ValueError: " + "x" * 300),
    ],
)  # fmt: skip
def test_a_foreign_error_is_quoted_by_the_line_that_says_the_reason(text: str, told: str) -> None:
    assert brief(ValueError(text)) == told
