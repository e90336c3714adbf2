"""Page of a run of reinforcement learning: curves, signs of exploitation, samples, settings.

Made from the figures of the steps so far, so that a run that goes on or was killed has one too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unified_reward.core.errors import ConfigError
from unified_reward.io.text import read_json_lines
from unified_reward.report.charts import Line
from unified_reward.report.page import DASH, Page, Tile
from unified_reward.train.run_history import FILE


PAGE = "index.html"
"""File of the page in the folder of a run."""
Row = Mapping[str, Any]
"""Figures of a step by name, ``step`` among them; None, or none at all, where there is no value.

``rewards`` has the mean of each reward by name. ``held_out`` is the mean reward of the held-out
prompts, and ``held_out_rewards`` has each of theirs by name, with those that are not trained on.
"""


@dataclass(frozen=True)
class RunFacts:
    """Facts about a run for its page."""

    policy: str
    rewards: Sequence[str]
    """Names of the rewards that are trained."""
    settings: Mapping[str, Any]
    """Settings by name; ``steps`` are in those of ``optim``."""
    prompts: int = 0
    """Number of prompts that are trained."""
    held_out: int = 0
    """Number of prompts that are held out."""
    sheet_prompts: Sequence[str] = ()
    """Prompts of the rows of a sheet of samples, from top to bottom."""


class _Figure(NamedTuple):
    title: str
    unit: str
    reading: str


_SIGNS = {
    "diversity": _Figure(
        "Diversity of a group",
        "mean difference of pixels, 0 to 1",
        "Falls where the samples of a prompt become alike, whatever their seed.",
    ),
    "norm_ratio": _Figure(
        "Size of predictions beside the reference's",
        "|v| / |v_ref|",
        "Rises above 1 where contrast and colours are inflated.",
    ),
    "kl": _Figure(
        "Distance from the reference",
        "nats per element of a step, or per token",
        "Compare runs at the same distance; a reward that needs ever more of it is suspect.",
    ),
    "spread": _Figure(
        "Spread of the reward in a group",
        "standard deviation",
        "Advantages are divided by it: down to the judge's own noise, noise is what they teach.",
    ),
}
_UPDATES = {
    "clipped": _Figure(
        "Clipped samples",
        "share",
        "Samples whose ratio of densities left the clip range, and which teach no more.",
    ),
    "deviation": _Figure(
        "Distance from the policy that sampled",
        "mean |ratio - 1|",
        "Of the ratio of densities, at the last optimiser step of a step.",
    ),
}
_NFT = {
    "kl": _SIGNS["kl"]._replace(unit="mean squared difference of predictions"),
    "deviation": _Figure(
        "Distance from the policy that samples",
        "mean squared difference of predictions",
        "While it is 0, beta has no effect.",
    ),
}
_COUNTS = {
    "failed": "rewards that failed",
    "failed_groups": "groups without two rewards",
    "constant_groups": "groups of equal rewards",
    "lost_comparisons": "comparisons that failed",
}
_HIDDEN = {"step", "loss", "reward", "rewards", "held_out", "held_out_rewards"}
_ALONE = (
    "A policy that exploits its reward looks like one that learns: the trained reward rises. Here "
    "nothing else is measured that people want, so look at the samples, and have the held-out "
    "prompts scored by a judge that is not trained on."
)
_TOLD_APART = (
    "A policy that exploits its reward looks like one that learns: the trained reward rises. Where "
    "a measure that is not trained on turns, keep the policy from before; a second reward, a "
    "larger beta or min_spread, or fewer steps put the turn off."
)


def write_run_page(
    folder: Path, run: RunFacts, log: Callable[[str], None] = lambda _: None
) -> None:
    """Write the page of a run into its folder, from its ``history.jsonl`` and ``samples/``.

    Args:
        folder: Folder of the run.
        run: Facts about it.
        log: Called if there is no page, since the extra [report] is not installed.

    Raises:
        DataError: The file cannot be written.
    """
    rows = [row for _, row in read_json_lines(folder / FILE)]
    sheets = sorted((folder / "samples").glob("step-*.png"))
    try:
        build_run_page(rows, run, sheets).write(folder / PAGE)
    except ConfigError as error:
        log(f"there is no page of the run: {error}")


def build_run_page(rows: Sequence[Row], run: RunFacts, sheets: Sequence[Path] = ()) -> Page:
    """Build the page of a run.

    Args:
        rows: Figures by step, in order.
        run: Facts about it.
        sheets: Sheets of samples ``step-NNNNNN.png``, in order, in a folder ``samples``.
    """
    curves = _Curves(rows, run.rewards)
    page = Page(
        "Learning from rewards", lead=f"{Path(run.policy).name}, trained by {_all(run.rewards)}."
    )
    page.section("Now")
    page.tiles([*_tiles(curves, run)])
    _add_rewards(page, curves)
    _add_signs(page, curves, run)
    _add_samples(page, sheets, run)
    _add_updates(page, curves, run)
    page.section("Settings")
    facts = {"policy": run.policy, "prompts": run.prompts, "held-out prompts": run.held_out}
    settings = [*facts.items(), *_flat(run.settings)]
    cells = [[name, _text(value)] for name, value in settings]
    page.table(["setting", "value"], cells, folded=f"{len(cells)} settings of the run")
    return page


class _Curves:
    """Lines of figures by step."""

    def __init__(self, rows: Sequence[Row], trained: Sequence[str]) -> None:
        self.rows = rows
        self.smooth = max(1, len(rows) // 10)
        self.held_out: dict[str, list[tuple[float, float]]] = {}
        self.rewards: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            held_out = {"reward": row.get("held_out"), **(row.get("held_out_rewards") or {})}
            rewards = row.get("rewards") or {}
            for lines, values in ((self.held_out, held_out), (self.rewards, rewards)):
                for name, value in values.items():
                    if value is not None:
                        lines.setdefault(name, []).append((row["step"], value))
        self.measures = [name for name in self.held_out if name not in {"reward", *trained}]
        """Rewards of the held-out prompts that are not trained on."""
        self.names = [*dict.fromkeys(name for row in rows for name in row)]
        """Figures in the rows, in order."""

    def line(self, name: str) -> Line:
        """Values of a figure; gaps where a step has none, and nothing where no step has one."""
        values = [(row["step"], row.get(name)) for row in self.rows if name in row]
        if all(value is None for _, value in values):
            return []
        return [(step, math.nan if value is None else value) for step, value in values]

    def ends(self, line: Line) -> tuple[float | None, float | None]:
        """Mean of the first and of the last tenth of the run's steps."""
        known = [(step, value) for step, value in line if math.isfinite(value)]
        if not known:
            return None, None
        first, last = known[0][0], known[-1][0]
        start = [value for step, value in known if step < first + self.smooth]
        end = [value for step, value in known if step > last - self.smooth]
        return float(np.mean(start)), float(np.mean(end))


def _tiles(curves: _Curves, run: RunFacts) -> Iterator[Tile]:
    done = sum("reward" in row for row in curves.rows)
    yield Tile("Steps", f"{done:,}", f"of {run.settings['optim']['steps']:,}")
    yield _tile("Trained reward", curves.ends(curves.line("reward")))
    if "reward" in curves.held_out:
        line = curves.held_out["reward"]
        yield _tile("Held-out reward", (line[0][1], line[-1][1]))
    for name in curves.measures:
        line = curves.held_out[name]
        yield _tile(f"{name}, not trained on", (line[0][1], line[-1][1]))
    if line := curves.line("diversity"):
        yield _tile("Diversity of a group", curves.ends(line))
    failed = sum(row.get("failed") or 0 for row in curves.rows)
    skipped = sum(
        row.get(name) or 0 for row in curves.rows for name in ("failed_groups", "constant_groups")
    )
    yield Tile("Failed rewards", f"{failed:,.0f}", f"{skipped:,.0f} groups taught nothing")


def _tile(label: str, ends: tuple[float | None, float | None]) -> Tile:
    start, now = ends
    if start is None or now is None:
        return Tile(label, DASH)
    return Tile(label, f"{now:.3g}", f"{start:.3g} at first")


def _add_rewards(page: Page, curves: _Curves) -> None:
    page.section(
        "Rewards",
        "Training prompts are sampled as they are learned, held-out prompts as the policy will be "
        "used. " + _smoothing(curves),
    )
    trained = {"reward": curves.line("reward")}
    trained |= curves.rewards if len(curves.rewards) > 1 else {}
    charts: list[tuple[Mapping[str, Line], _Figure]] = []
    for name, line in trained.items():
        lines = {"training prompts": line}
        if name in curves.held_out:
            lines["held-out prompts"] = curves.held_out[name]
        title = "Reward" if len(trained) == 1 else "All rewards" if name == "reward" else name
        charts.append((lines, _Figure(title, "mean reward", "")))
    for name in curves.measures:
        reading = "Not trained on: where it turns while the reward rises, the reward is exploited."
        lines = {"": [], "held-out prompts": curves.held_out[name]}
        charts.append((lines, _Figure(name, "mean", reading)))
    for lines, figure in charts:
        _add_curve(page, curves, lines, figure, wide=len(charts) == 1)


def _smoothing(curves: _Curves) -> str:
    if curves.smooth < 2:
        return ""
    width = 2 * (curves.smooth // 2) + 1
    return f"Thin: each step; thick: mean of {width} steps."


def _add_curve(
    page: Page,
    curves: _Curves,
    lines: Mapping[str, Line],
    figure: _Figure,
    *,
    wide: bool = False,
) -> None:
    page.curve(
        lines,
        title=figure.title,
        x="step",
        y=figure.unit,
        note=figure.reading,
        smooth=curves.smooth,
        wide=wide,
    )


def _add_signs(page: Page, curves: _Curves, run: RunFacts) -> None:
    signs = _SIGNS | (_NFT if _has_no_ratio(run) else {})
    page.section("Does it exploit its reward?", _TOLD_APART if curves.measures else _ALONE)
    best = (
        curves.held_out.get("reward", []),
        "Behind the trained reward: prompts are learned by heart.",
    )
    rows: list[list[str | float | None]] = [
        _sign("Trained reward", curves.ends(curves.line("reward")), "Rises in any case."),
    ]
    held_out = {"Held-out reward": best}
    held_out |= {
        name: (curves.held_out[name], "Not trained on: says whether the reward is still one.")
        for name in curves.measures
    }
    for name, (line, reading) in held_out.items():
        if line:
            step, value = max(line, key=lambda point: point[1])
            peak = f"Highest at step {step:g}: {value:.4g}. "
            rows.append(_sign(name, (line[0][1], line[-1][1]), peak + reading))
    lines = {name: curves.line(name) for name in signs if curves.line(name)}
    for name, line in lines.items():
        rows.append(_sign(signs[name].title, curves.ends(line), signs[name].reading))
    page.table(["figure", "at first", "now", "how to read it"], rows)
    for name, line in lines.items():
        _add_curve(page, curves, {"": line}, signs[name]._replace(reading=""))


def _sign(
    name: str, ends: tuple[float | None, float | None], reading: str
) -> list[str | float | None]:
    return [name, *ends, reading]


def _add_samples(page: Page, sheets: Sequence[Path], run: RunFacts) -> None:
    if not sheets:
        return
    page.section("Samples", "The same prompts and seeds throughout, sampled as held-out prompts.")
    page.text("\n".join(f"{i}. {prompt}" for i, prompt in enumerate(run.sheet_prompts, 1)))
    chosen = sorted({0, (len(sheets) - 1) // 2, len(sheets) - 1})
    images: list[tuple[str, str, str]] = []
    for sheet in (sheets[i] for i in chosen):
        step = int(sheet.stem.removeprefix("step-"))
        caption = f"After step {step:,}" if step else "Before training"
        prompts = "; ".join(run.sheet_prompts)
        images.append((f"samples/{sheet.name}", caption, f"Samples, {caption.lower()}: {prompts}"))
    page.files(images)


def _add_updates(page: Page, curves: _Curves, run: RunFacts) -> None:
    updates = _UPDATES | (_NFT if _has_no_ratio(run) else {})
    page.section("Updates and failures")
    if not _has_no_ratio(run) and run.settings.get("updates") == 1:
        page.text(
            "With one update a step, each gradient is taken at the policy that sampled: every "
            "ratio of densities is exactly 1, and nothing is clipped."
        )
        updates = {}
    for name in updates.keys() & {*_UPDATES}:
        if line := curves.line(name):
            _add_curve(page, curves, {"": line}, updates[name])
    counts = {label: curves.line(name) for name, label in _COUNTS.items() if name in curves.names}
    if any(value for line in counts.values() for _, value in line):
        reading = (
            "Failed rewards leave their group and are never a number; such groups teach nothing."
        )
        _add_curve(page, curves, counts, _Figure("Failures", "number in a step", reading))
    elif any(counts.values()):
        page.text("No reward failed, and no group had equal rewards.")
    others = {*curves.names} - {*_SIGNS, *_UPDATES, *_COUNTS, *_HIDDEN}
    for name in filter(others.__contains__, curves.names):
        _add_curve(page, curves, {"": curves.line(name)}, _Figure(name, "", ""))


def _has_no_ratio(run: RunFacts) -> bool:
    return run.settings.get("algorithm") in ("nft", "draft")


def _flat(settings: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{head}{name}.")
        else:
            yield head + name, value


def _text(value: Any) -> str:
    """A value in words; lists as in YAML."""
    if value is None:
        return "default"
    if isinstance(value, list | tuple):
        return _all(value) or "none"
    return str(value)


def _all(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
