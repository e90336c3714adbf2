"""Line charts as inline SVG without text, in the colours of a page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np

from unified_reward.core.extensions import extra


_TEXT, _LINE = "#010203", "#010204"
_SERIES = ("#010300", "#010301", "#010302", "#010303")
_CSS_COLOURS = {_TEXT: "var(--muted)", _LINE: "var(--line)"} | {
    colour: f"var(--series-{i})" for i, colour in enumerate(_SERIES)
}
"""Matplotlib takes no CSS variables, so it draws in placeholder colours that are replaced."""


def series_colour(i: int) -> str:
    """CSS colour of line ``i`` of a chart."""
    return _CSS_COLOURS[_SERIES[i % len(_SERIES)]]


def line_chart(lines: Sequence[Sequence[tuple[float, float]]], *, salt: str) -> str:
    """Draw lines of points (x, y) as inline SVG that follows the light or dark mode of a page.

    Args:
        lines: A point that is not finite is a gap.
        salt: Seed of the ids in the SVG; must differ between the charts of a page.
    """
    with extra("report"):
        import matplotlib as mpl
        from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 10}):
        figure = Figure(figsize=(5.2, 2.9), layout="constrained", facecolor="none")
        axes = figure.add_subplot(facecolor="none")
        for i, line in enumerate(lines):
            points = np.asarray(line, dtype=float).reshape(-1, 2)
            points[~np.isfinite(points)] = np.nan
            marker = "o" if len(points) <= 16 else None
            axes.plot(*points.T, color=_SERIES[i % len(_SERIES)], lw=2, marker=marker, ms=5)
        axes.tick_params(length=0, labelcolor=_TEXT, pad=6)
        axes.grid(axis="y", color=_LINE, lw=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_LINE)
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=no_metadata)
    svg = buffer.getvalue()
    # Ids repeat from chart to chart and namespaces are URLs; a page needs neither.
    svg = re.sub(r' (?:id="[\w.]+_\d+"|xmlns(?::\w+)?="[^"]*")', "", svg[svg.index("<svg") :])
    for colour, variable in _CSS_COLOURS.items():
        svg = svg.replace(colour, variable)
    return svg
