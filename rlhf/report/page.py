"""report.html: one file that needs nothing else, with every text of a model shown as text."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rlhf.data.dialogues import split_turns
from rlhf.data.text import visible
from rlhf.evaluation import reward_hacking
from rlhf.results.toxicity import TOXIC

if TYPE_CHECKING:
    from rlhf.results.base import Difference
    from rlhf.results.schema import Evidence, Results

TEMPLATES = Path(__file__).parent / "templates"

HEADLINES = {
    (1, -1): ("good", "Better: higher reward and less toxicity"),
    (1, 0): ("mixed", "Higher reward, no clear change in toxicity"),
    (0, -1): ("mixed", "Less toxicity, no clear change in reward"),
    (0, 0): ("mixed", "No clear difference"),
    (1, 1): ("mixed", "Higher reward, but more toxicity"),
    (-1, -1): ("mixed", "Less toxicity, but lower reward"),
    (-1, 0): ("bad", "Worse: lower reward, no clear change in toxicity"),
    (0, 1): ("bad", "Worse: more toxicity, no clear change in reward"),
    (-1, 1): ("bad", "Worse: lower reward and more toxicity"),
}
"""Tone and headline by the signs of the changes in reward and in toxicity."""


class Verdict(NamedTuple):
    """What the run proved."""

    tone: str
    """`good`, `mixed` or `bad`."""
    headline: str
    sentence: str


class Bar(NamedTuple):
    """An interval and zero on one line, in percent of its width."""

    zero: float
    low: float
    high: float
    mean: float


def render_report(results: Results, evidence: Evidence) -> str:
    """The whole page."""
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return (
        make_environment()
        .get_template("report.html")
        .render(
            results=results,
            evidence=evidence,
            verdict=verdict(results),
            reward_bar=interval_bar(results.reward.difference),
            toxicity_bar=interval_bar(results.toxicity.difference),
            style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def make_environment() -> Environment:
    """What the templates of this folder need; text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "visible": visible,
        "turns": split_turns,
        "number": number,
        "signed": signed,
        "time": duration,
        "p_value": p_value,
        "chance": chance,
        "dollars": dollars,
    }
    environment.globals |= {"toxic": TOXIC, "limits": reward_hacking}
    return environment


def verdict(results: Results) -> Verdict:
    """The result in a headline and a sentence that owns up to an interval that includes zero."""
    reward, toxicity = results.reward.difference, results.toxicity.difference
    tone, headline = HEADLINES[reward.sign, toxicity.sign]
    sentence = (
        f"Over {results.reward.rlhf.n} test prompts that nothing was trained on, "
        f"{_clause('the mean reward of the answers', reward, 3)}; "
        f"over {results.toxicity.rlhf.n:,} toxicity prompts, {_clause('mean toxicity', toxicity, 4)}."
    )
    if results.warnings:
        tone = "bad" if tone == "bad" else "mixed"
        headline = f"{headline.removeprefix('Better: ').capitalize()}, with signs of reward hacking"
    return Verdict(tone, headline, sentence)


def _clause(what: str, difference: Difference, digits: int) -> str:
    low, high = difference.ci95
    if difference.sign == 0:
        return (
            f"{what} changed by {signed(difference.mean, digits)}, which cannot be told from no change at all: "
            f"the 95 % interval, {signed(low, digits)} to {signed(high, digits)}, includes zero"
        )
    word, least, most = ("rose", low, high) if difference.sign > 0 else ("fell", -high, -low)
    return (
        f"{what} {word} by {number(abs(difference.mean), digits)} "
        f"(95 % interval {number(least, digits)} to {number(most, digits)})"
    )


def interval_bar(difference: Difference) -> Bar:
    """Where zero, the ends of the interval and the mean stand on a line that has room for all of them."""
    low, high = difference.ci95
    left, right = min(0.0, low), max(0.0, high)
    margin = 0.12 * (right - left) or 1.0

    def place(value: float) -> float:
        return round(100 * (value - left + margin) / (right - left + 2 * margin), 2)

    return Bar(place(0.0), place(low), place(high), place(difference.mean))


def number(value: float, digits: int) -> str:
    """`value` with so many digits behind the point and a true minus sign."""
    return f"{value:,.{digits}f}".replace("-", "\u2212")


def signed(value: float, digits: int) -> str:
    """Like `number`, with a plus sign where it is positive."""
    return f"{value:+,.{digits}f}".replace("-", "\u2212")


def dollars(value: float) -> str:
    """Money as it stands in a table: $0.004, $12.30, $1,234."""
    return f"${number(value, 4 if value < 0.1 else 2 if value < 1000 else 0)}"


def p_value(value: float) -> str:
    """A p-value as it stands in a table: 0.054, < 0.001."""
    return "< 0.001" if value < 0.001 else number(value, 3)


def chance(value: float) -> str:
    """A p-value with its relation, as it stands in a sentence: = 0.054, < 0.001; the spaces do not break."""
    return (p_value(value) if value < 0.001 else f"= {p_value(value)}").replace(" ", "\N{NO-BREAK SPACE}")


def duration(seconds: float) -> str:
    """Seconds as a person says them: 0.4 s, 52 s, 3 min 20 s, 5 h 12 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
