"""Numbers as text for the report, the model card and the terminal."""

from __future__ import annotations

from markupsafe import Markup

from rlhf.data.invisible import escape_invisible


def show_text(value: object) -> object:
    """What a template writes for `value`: text with the codes of invisible characters, anything else as it is."""
    return escape_invisible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def format_number(value: float, digits: int) -> str:
    """`value` with `digits` decimals, thousands separators and a true minus sign; no minus before zeros only."""
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "\u2212")


def format_signed(value: float, digits: int) -> str:
    """Like `format_number`, with a plus sign unless the value is negative."""
    return f"{round(value, digits) + 0.0:+,.{digits}f}".replace("-", "\u2212")


def format_significant(value: float) -> str:
    """`value` with four significant digits, such as 0.1234 or -12.35."""
    return f"{value:.4g}"


def format_dollars(value: float) -> str:
    """An amount of money in a table: $0.0041, $12.30, $1,234."""
    return f"${format_number(value, 4 if value < 0.1 else 2 if value < 1000 else 0)}"


def format_p_value(value: float) -> str:
    """A p-value in a table: 0.054, < 0.001."""
    return "< 0.001" if value < 0.001 else format_number(value, 3)


def p_value_with_relation(value: float) -> str:
    """A p-value in a sentence: = 0.054, < 0.001.  Its spaces are non-breaking."""
    return (format_p_value(value) if value < 0.001 else f"= {format_p_value(value)}").replace(" ", "\N{NO-BREAK SPACE}")


def format_duration(seconds: float) -> str:
    """Seconds in units that are easy to read: 0.4 s, 52 s, 3 min 20 s, 5 h 12 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    minutes, rest = divmod(rounded, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
