"""Line charts as inline SVG without text, in the colours of a page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np

from unified_reward.core.extensions import extra


_MARKED = 16
"""Longest line whose points are marked."""
_TEXT, _LINE = "#010203", "#010204"
_SERIES = ("#010300", "#010301", "#010302", "#010303")
_CSS_COLOURS = {_TEXT: "var(--muted)", _LINE: "var(--line)"} | {
    colour: f"var(--series-{i})" for i, colour in enumerate(_SERIES)
}
"""Matplotlib takes no CSS variables, so it draws in placeholder colours that are replaced."""


def series_colour(i: int) -> str:
    """CSS colour of line ``i`` of a chart."""
    return _CSS_COLOURS[_SERIES[i % len(_SERIES)]]


Line = Sequence[tuple[float, float]]
"""Points (x, y); one that is not finite is a gap."""


def running_mean(line: Line, width: int) -> Line:
    """Mean of y over up to ``width`` points (rounded up to an odd number) around each point.

    Fewer at the ends; points that are not finite are left out, and stay gaps.
    """
    x, y = np.asarray(line, dtype=float).reshape(-1, 2).T
    known, window = np.isfinite(y), np.ones(2 * (width // 2) + 1)
    total = np.convolve(np.where(known, y, 0), window)[width // 2 :][: len(y)]
    n = np.convolve(known, window)[width // 2 :][: len(y)]
    means = np.where(known, total / np.maximum(n, 1), np.nan)
    return [*zip(x.tolist(), means.tolist(), strict=True)]


def line_chart(lines: Sequence[Line], *, salt: str, smooth: int = 1, wide: bool = False) -> str:
    """Draw lines as inline SVG that follows the light or dark mode of a page.

    Args:
        lines: Lines of points.
        salt: Seed of the ids in the SVG; must differ between the charts of a page.
        smooth: Points of a running mean, beside which the points themselves are thin; short lines,
            of less than twice as many, are drawn as they are.
        wide: Twice as wide.
    """
    with extra("report"):
        import matplotlib as mpl
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 10}):
        figure = Figure(
            figsize=(10.8 if wide else 5.2, 2.9), layout="constrained", facecolor="none"
        )
        axes = figure.add_subplot(facecolor="none")
        for i, line in enumerate(lines):
            points = np.asarray(line, dtype=float).reshape(-1, 2)
            points[~np.isfinite(points)] = np.nan
            colour, marker = _SERIES[i % len(_SERIES)], "o" if len(points) <= _MARKED else None
            if smooth > 1 and len(points) >= max(2 * smooth, _MARKED + 1):
                axes.plot(*points.T, color=colour, lw=0.9, alpha=0.3)
                points, marker = np.asarray(running_mean(line, smooth)), None
            axes.plot(*points.T, color=colour, lw=2.2, marker=marker, ms=5)
        is_whole = all(float(x).is_integer() for line in lines for x, _ in line)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=is_whole))
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
