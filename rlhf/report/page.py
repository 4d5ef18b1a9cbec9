"""report.html: one self-contained file in which every text of a model is escaped."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rlhf.data.dialogues import split_turns
from rlhf.evaluation import reward_hacking
from rlhf.report import formatting
from rlhf.report.claims import JUDGE_NAMES, caveats, endpoint_rows, lead
from rlhf.report.formatting import format_number, format_signed
from rlhf.results.headline import headline_metrics
from rlhf.results.toxicity import TOXIC

if TYPE_CHECKING:
    from rlhf.results.schema import ReportData, Results

TEMPLATES = Path(__file__).parent / "templates"


class Bar(NamedTuple):
    """Positions of no difference, both ends of an interval and its mean on one line, in percent of its width."""

    null: float
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
            lead=lead(results),
            caveats=caveats(results, report_data),
            endpoints=endpoint_rows(results),
            judges={judge.kind: judge for judge in results.judges},
            style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def make_environment() -> Environment:
    """Jinja environment of the templates: HTML and invisible characters are escaped, undefined names raise an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=formatting.show_text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "turns": split_turns,
        "format_number": format_number,
        "format_signed": format_signed,
        "format_duration": formatting.format_duration,
        "format_dollars": formatting.format_dollars,
        "format_p_value": formatting.format_p_value,
        "p_value_with_relation": formatting.p_value_with_relation,
    }
    environment.globals |= {
        "toxic": TOXIC,
        "limits": reward_hacking,
        "interval_bar": interval_bar,
        "judge_names": JUDGE_NAMES,
    }
    return environment


def interval_bar(mean: float, ci95: tuple[float, float], null: float) -> Bar:
    """Positions on a line that is long enough for the interval and `null`, which means no difference."""
    low, high = ci95
    left, right = min(null, low), max(null, high)
    margin = 0.12 * (right - left) or 1.0

    def position(value: float) -> float:
        return round(100 * (value - left + margin) / (right - left + 2 * margin), 2)

    return Bar(position(null), position(low), position(high), position(mean))
