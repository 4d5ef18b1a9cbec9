"""A plot of the report as a standalone image, for pages that do not have the report's style sheet."""

from __future__ import annotations

import base64
import re
from functools import cache

from rlhf.report.page import TEMPLATES
from rlhf.results.schema import Plot

STYLE_SHEET = TEMPLATES / "report.css"
WIDTH = 640
"""Pixels."""


def image_uri(plot: Plot) -> str:
    """`plot` as a data: URI with an SVG image in the report's light colors on white."""
    svg = plot.svg
    for name, color in _light_colors().items():
        svg = svg.replace(f"var({name})", color)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert box is not None, "matplotlib writes a viewBox"
    height = round(WIDTH * float(box[2]) / float(box[1]))
    look = f'width="{WIDTH}" height="{height}" style="background: #fff; font-family: sans-serif"'
    encoded = base64.b64encode(svg.replace("<svg ", f"<svg {look} ", 1).encode()).decode()
    return f"data:image/svg+xml;base64,{encoded}"


@cache
def _light_colors() -> dict[str, str]:
    """Variables of the first rule of the style sheet, by name."""
    root = STYLE_SHEET.read_text(encoding="utf-8").partition("}")[0]
    return dict(re.findall(r"(--[\w-]+): (#[0-9a-f]+)", root))
