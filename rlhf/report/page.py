"""report.html: one self-contained file in which every text of a model is escaped."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rlhf.data.dialogues import split_turns
from rlhf.data.text import escape_invisible
from rlhf.evaluation import reward_hacking
from rlhf.report import formatting
from rlhf.report.formatting import format_number, format_signed
from rlhf.results.headline import headline_metrics
from rlhf.results.toxicity import TOXIC

if TYPE_CHECKING:
    from rlhf.results.base import Difference
    from rlhf.results.schema import ReportData, Results

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
    """The conclusion of a run."""

    tone: str
    """`good`, `mixed` or `bad`."""
    headline: str
    sentence: str


class Bar(NamedTuple):
    """Positions of zero, both ends of an interval and its mean on one line, in percent of its width."""

    zero: float
    low: float
    high: float
    mean: float


def render_report(results: Results, report_data: ReportData) -> str:
    """The complete page as HTML."""
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return (
        make_environment()
        .get_template("report.html")
        .render(
            results=results,
            report_data=report_data,
            metrics={metric.key: metric for metric in headline_metrics(results)},
            verdict=verdict(results),
            reward_bar=interval_bar(results.reward.difference),
            toxicity_bar=interval_bar(results.toxicity.difference),
            style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def make_environment() -> Environment:
    """Jinja environment of the templates: HTML is escaped, undefined names raise an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "escape_invisible": escape_invisible,
        "turns": split_turns,
        "format_number": format_number,
        "format_signed": format_signed,
        "format_duration": formatting.format_duration,
        "format_dollars": formatting.format_dollars,
        "format_p_value": formatting.format_p_value,
        "p_value_with_relation": formatting.p_value_with_relation,
    }
    environment.globals |= {"toxic": TOXIC, "limits": reward_hacking}
    return environment


def verdict(results: Results) -> Verdict:
    """The conclusion as a headline and a sentence, which says so if an interval includes zero."""
    reward, toxicity = results.reward.difference, results.toxicity.difference
    tone, headline = HEADLINES[reward.sign, toxicity.sign]
    sentence = (
        f"On {results.reward.rlhf.n} test prompts that were not used in training, "
        f"{_clause('the mean reward of the responses', reward, 3)}; "
        f"on {results.toxicity.rlhf.n:,} toxicity prompts, {_clause('mean toxicity', toxicity, 4)}."
    )
    if results.reward_hacking_signs:
        tone = "bad" if tone == "bad" else "mixed"
        headline = f"{headline.removeprefix('Better: ').capitalize()}, with signs of reward hacking"
    return Verdict(tone, headline, sentence)


def _clause(metric: str, difference: Difference, digits: int) -> str:
    low, high = difference.ci95
    if difference.sign == 0:
        return (
            f"{metric} changed by {format_signed(difference.mean, digits)}, which cannot be distinguished from no "
            f"change: the 95 % interval, {format_signed(low, digits)} to {format_signed(high, digits)}, includes zero"
        )
    verb, least, most = ("rose", low, high) if difference.sign > 0 else ("fell", -high, -low)
    return (
        f"{metric} {verb} by {format_number(abs(difference.mean), digits)} "
        f"(95 % interval {format_number(least, digits)} to {format_number(most, digits)})"
    )


def interval_bar(difference: Difference) -> Bar:
    """Positions on a line that is long enough for zero and the interval, with a margin on both sides."""
    low, high = difference.ci95
    left, right = min(0.0, low), max(0.0, high)
    margin = 0.12 * (right - left) or 1.0

    def position(value: float) -> float:
        return round(100 * (value - left + margin) / (right - left + 2 * margin), 2)

    return Bar(position(0.0), position(low), position(high), position(difference.mean))
