"""A plot of the report as a picture that stands alone, for places that know nothing of the page's colours."""

from __future__ import annotations

import base64
import re
from functools import cache

from rlhf.report.page import TEMPLATES
from rlhf.results.schema import Plot

STYLE_SHEET = TEMPLATES / "report.css"
WIDTH = 640
"""Pixels."""


def picture_uri(plot: Plot) -> str:
    """`plot` as a data: URI: SVG with the page's light colours on white."""
    svg = plot.svg
    for name, colour in _light_colours().items():
        svg = svg.replace(f"var({name})", colour)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert box is not None, "matplotlib's pictures name their size"
    height = round(WIDTH * float(box[2]) / float(box[1]))
    look = f'width="{WIDTH}" height="{height}" style="background: #fff; font-family: sans-serif"'
    encoded = base64.b64encode(svg.replace("<svg ", f"<svg {look} ", 1).encode()).decode()
    return f"data:image/svg+xml;base64,{encoded}"


@cache
def _light_colours() -> dict[str, str]:
    """The variables of the style sheet's first rule by name."""
    root = STYLE_SHEET.read_text(encoding="utf-8").partition("}")[0]
    return dict(re.findall(r"(--[\w-]+): (#[0-9a-f]+)", root))
