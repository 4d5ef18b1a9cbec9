"""One row of a user's data file, and the errors in it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

MAX_ROW_BYTES = 16 * 2**20
"""Longest line, and longest text of a parquet file, that is read: far longer than any dialogue, small beside memory."""
TOO_LONG = f"is longer than {MAX_ROW_BYTES // 2**20} MiB, the most that is read"
MAX_SHOWN = 80
"""Characters of a value that an error message quotes."""
MAX_LISTED = 20
"""Names that an error message lists."""


class UnreadableLineError(ValueError):
    """A line that cannot be used.  The message says why, and names the field if it is about one."""


Row = dict[str, object] | UnreadableLineError
"""One line: its object, or the error in it."""


def text_field(row: dict[str, object], name: str) -> str:
    """The text in field `name`.  Raises UnreadableLineError if it is missing or not valid text."""
    value = row.get(name)
    if not isinstance(value, str):
        problem = f"is {kind(value)}, not text" if name in row else "is missing"
        raise UnreadableLineError(f"field {name} {problem}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UnreadableLineError(f"field {name} contains half of a surrogate pair, which is not valid text") from error
    return value


def kind(value: object) -> str:
    """The name in JSON of the type of `value`."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"of type {type(value).__name__}")


def shown(value: object) -> str:
    """A value from a file, short enough for an error message: the beginning of a text, or the kind of a list."""
    if isinstance(value, str):
        return repr(value if len(value) <= MAX_SHOWN else value[:MAX_SHOWN] + "…")
    return repr(value) if value is None or isinstance(value, bool | int | float) else kind(value)


def listed(names: Iterable[str]) -> str:
    """Names from a file in one line, for an error message."""
    first = list(islice(names, MAX_LISTED + 1))
    plain = [name if name.isprintable() and len(name) <= MAX_SHOWN else shown(name) for name in first[:MAX_LISTED]]
    return ", ".join(plain + ["…"] * (len(first) > MAX_LISTED)) or "none"
