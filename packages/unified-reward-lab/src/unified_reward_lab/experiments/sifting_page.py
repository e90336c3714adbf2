"""Page and plot of the study of sifting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from unified_reward_lab.experiments.page import png, table, with_interval


FAMILIES = {
    "random": "random",
    "score": "score",
    "rank": "rank",
    "rank+sift": "rank+sift",
    "Swiss": "tournament",
    "adaptive": "adaptive",
    "readings": "adaptive, readings",
}
"""Strategies by a part of the name of a setting; the last that fits is its own."""
_COLUMNS = {
    "better": "better",
    "gap": "gap",
    "kept": "kept",
    "gain": "gain",
    "from_score": "minus two readings",
    "from_sift": "minus rank+sift",
}
_GOALS = ("rank+sift", "score, read twice")
_NEAR = 0.005


def page(report: Mapping[str, Any]) -> str:
    """Format the report as a Markdown section."""
    lines = [
        "## Pairs by strategy and by calls of the judge",
        "",
        f"{len(report['seeds'])} series (seeds {', '.join(map(str, report['seeds']))}) of "
        f"{report['prompts']} held-out prompts of `{report['task']}` with {report['n']} candidates "
        "each, whose utilities are known. Better: share of kept pairs whose chosen candidate has "
        "the higher utility. Gap: difference in utility of kept pairs. Kept: share of prompts with "
        "a pair. Gain: the gap, 0 where there is no pair; minus that of scores read twice and of "
        "rank+sift on the same prompts. Soft: probabilities; coarse: an answer sampled from them, "
        "so that readings differ. A judge whose scores give no pair is left out. The number of "
        "`adaptive` is its confidence, 0.7 where there is "
        "none. In brackets 95 % intervals, bootstrap over prompts; one judge of each kind.",
        "",
        "### Fewest calls for the gain of rank+sift, and for that of scores read twice",
        "",
        f"The cheapest setting whose gain is at most {_NEAR} lower, with its share of the calls; "
        "none where there is no such setting.",
        "",
        *table(["judge", "mode", "to reach", "gain", "calls", *_REACHING], _reached(report)),
        "",
        "### The best setting of each strategy with at most two calls a candidate",
        "",
        f"The cheapest of those within {_NEAR} of the highest gain. All settings are in "
        "`docs/results/sifting.json` and in the plot.",
        "",
        *table(["judge", "mode", "setting", "calls", *_COLUMNS.values()], _best(report)),
    ]
    return "\n".join(lines) + "\n"


_REACHING = {"score": ("score",), "adaptive": ("adaptive", "adaptive, readings")}


def _families(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by the strategy they belong to."""
    families: dict[str, dict[str, Any]] = {family: {} for family in FAMILIES.values()}
    for name, row in settings.items():
        families[[family for part, family in FAMILIES.items() if part in name][-1]][name] = row
    return families


def _panels(report: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Judge, mode and settings, where scores give pairs."""
    for judge, modes in report["judges"].items():
        for mode, settings in modes.items():
            if settings["score"]["kept"]["value"]:
                yield judge, mode, settings


def _reached(report: Mapping[str, Any]) -> Iterator[list[Any]]:
    for judge, mode, settings in _panels(report):
        families = _families(settings)
        for goal in _GOALS:
            row = settings[goal]
            cells = [
                _cheapest({n: r for family in names for n, r in families[family].items()}, row)
                for names in _REACHING.values()
            ]
            yield [judge, mode, goal, f"{row['gain']['value']:.3f}", f"{row['calls']:.1f}", *cells]


def _cheapest(settings: Mapping[str, Any], reach: Mapping[str, Any]) -> str:
    """The setting that reaches the gain of another by the fewest calls, and fewer than it."""
    enough = {
        name: row["calls"]
        for name, row in settings.items()
        if row["calls"] < reach["calls"] and row["gain"]["value"] >= reach["gain"]["value"] - _NEAR
    }
    if not enough:
        return "-"
    name = min(enough, key=enough.__getitem__)
    return f"{enough[name]:.1f} ({enough[name] / reach['calls']:.0%}), `{name}`"


def _best(report: Mapping[str, Any]) -> Iterator[list[Any]]:
    for judge, mode, settings in _panels(report):
        for family in _families(settings).values():
            cheap = {n: row for n, row in family.items() if 0 < row["calls"] <= 2 * report["n"]}
            if not cheap:
                continue
            top = max(row["gain"]["value"] for row in cheap.values())
            near = {n: row for n, row in cheap.items() if row["gain"]["value"] >= top - _NEAR}
            name = min(near, key=lambda n: near[n]["calls"])
            row = near[name]
            figures = [with_interval(row[key]) for key in _COLUMNS]
            yield [judge, mode, name, f"{row['calls']:.1f}", *figures]


def plot(report: Mapping[str, Any]) -> bytes:
    """Plot the gain against the calls: one panel per judge and mode, a curve per strategy.

    Random pairs, which gain nothing, are left out.
    """
    from matplotlib.figure import Figure

    panels = [*_panels(report)]
    columns = min(len(panels), 5)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1.2 + 2.4 * columns, 0.6 + 2.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (judge, mode, settings) in zip(grid, panels, strict=False):
        for k, (family, each) in enumerate([*_families(settings).items()][1:]):
            points = sorted((row["calls"], row["gain"]["value"]) for row in each.values())
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                "o-",
                ms=3,
                lw=1,
                color=f"C{k}",
                label=family,
            )
        axes.set(title=f"{judge}, {mode}", xlabel="calls a prompt")
    grid[0].set_ylabel("utility gained")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return png(figure)
