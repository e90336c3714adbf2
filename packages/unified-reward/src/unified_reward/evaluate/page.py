"""The HTML page of an evaluation: verdicts first, then differences, pictures, values, coverage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unified_reward.core.samples import Candidate, Image, Task, Video
from unified_reward.core.words import count_of
from unified_reward.data.stats import visible_parts
from unified_reward.evaluate.outputs import ModelOutputs
from unified_reward.report.page import (
    EMBEDDED_PIXELS,
    Bar,
    Card,
    Finding,
    Interval,
    Page,
    Tile,
    Tone,
    decimals_of,
)


Report = Mapping[str, Any]
Reading = Literal["better", "worse", "open"]
_CLAUSES: Mapping[Reading, str] = {
    "better": "is better than {} in",
    "worse": "is worse than {} in",
    "open": "cannot be told apart from {} in",
}
_MARKS = {"better": "▲ better", "worse": "▼ worse", "open": "not told apart"}
_WARNINGS = {
    "order": "within the noise of the order",
    "reading": "within the noise of readings",
    "disagreement": "rewards disagree",
    "few": "little to go by",
}
_PIXELS = EMBEDDED_PIXELS // 4
_VIDEO_PIXELS = _PIXELS // 2
_N_FILES = 2
"""Files of a model beside each other on a card."""
_N_MEDIA = 48
"""Images and videos on a page, so that it stays some megabytes; the first prompt has all of its."""
_N_OPEN = 12
"""Longest list of missing outputs that is not folded."""


class _Effect(NamedTuple):
    """Advantage of a model over the baseline in a reward."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """Prompts."""
    is_rate: bool
    """Win rate in [0, 1] instead of a difference of scores."""

    @property
    def even(self) -> float:
        """Value of no advantage."""
        return 0.5 if self.is_rate else 0.0

    @property
    def reading(self) -> Reading:
        """``open`` if the interval includes no advantage, or there is none."""
        if self.low is None or self.high is None or self.low <= self.even <= self.high:
            return "open"
        return "better" if self.low > self.even else "worse"

    @property
    def mark(self) -> str:
        """Reading for a chart."""
        return "" if self.value is None else _MARKS[self.reading]

    def words(self) -> str:
        """Value, interval and number of prompts; empty without a value."""
        if self.value is None:
            return ""
        interval, decimals = "no interval", 2
        if self.low is not None and self.high is not None:
            decimals = decimals_of(self.high - self.low)
            ends = (self._number(end, decimals) for end in (self.low, self.high))
            interval = f"95 % interval {' to '.join(ends)}"
        value = f"{'wins ' * self.is_rate}{self._number(self.value, decimals)}"
        return f"{value}, {interval}, {count_of(self.n, 'prompt')}"

    def _number(self, x: float, decimals: int) -> str:
        return _share(x) if self.is_rate else f"{x:+.{decimals}f}"


def write_page(report: Report, outputs: ModelOutputs, path: str | Path) -> None:
    """Write an evaluation as one HTML file.

    Args:
        report: As ``report.json`` has it.
        outputs: Outputs that were compared, for the pictures.
        path: File to write.

    Raises:
        DataError: The file cannot be written.
    """
    build_page(report, outputs).write(Path(path))


def build_page(report: Report, outputs: ModelOutputs) -> Page:
    """Build the page of an evaluation; parts without any figures are left out."""
    others = [name for name in report["models"] if name != report["baseline"]]
    names = ", ".join(others) if len(others) <= 3 else f"{len(others)} models"
    title = f"{names} against {report['baseline']}" if others else str(report["baseline"])
    page = Page(title, lead=f"{count_of(report['prompts'], 'prompt')}; {_all(report['rewards'])}.")
    if findings := [*_findings(report), *_warnings(report)]:
        page.findings(findings)
    page.tiles([*_tiles(report)])
    for add in (_add_differences, _add_people, _add_categories):
        add(page, report)
    _add_prompts(page, report, outputs)
    for add in (_add_ranking, _add_values, _add_correlations, _add_judges, _add_coverage):
        add(page, report)
    return page


def _effects(report: Report, paired: Mapping[str, Any]) -> dict[str, _Effect]:
    """Effects by reward, of one model."""
    effects: dict[str, _Effect] = {}
    for reward in report["rewards"]:
        if row := paired.get(reward):
            is_rate = report["judges"][reward]["kind"] == "win_rate"
            name, interval = ("win_rate", "win_rate_ci95") if is_rate else ("difference", "ci95")
            n = row["win_rate_n" if is_rate else "n"]
            effects[reward] = _Effect(row[name], *_ends(row.get(interval)), n, is_rate)
    return effects


def _findings(report: Report) -> Iterator[Finding]:
    """One sentence per model: better, worse or not told apart, by how much, in which rewards."""
    baseline, people = report["baseline"], report.get("people") or {}
    for model in report["models"]:
        if model == baseline:
            continue
        effects = _effects(report, report["paired"].get(model, {}))
        effects = {name: each for name, each in effects.items() if each.value is not None}
        clauses: list[str] = []
        for reading, clause in _CLAUSES.items():
            named = [
                f"{name} ({each.words()})"
                for name, each in effects.items()
                if each.reading == reading
            ]
            if named:
                clauses.append(f"{clause.format(baseline)} {' and '.join(named)}")
        text = f"{model} {'; it '.join(clauses)}."
        if not clauses:
            text = f"{model} and {baseline} have no prompt in common that both have values for."
        lines = [*_win_lines(report, model)]
        if votes := people.get(model):
            rate = _rate_words(votes["value"], votes["ci95"])
            lines.append(f"By votes of people and {votes['reward']}: {rate}.")
        mark, tone = _gist([each.reading for each in effects.values()])
        yield Finding(mark, text, lines, tone)


def _gist(readings: Sequence[Reading]) -> tuple[str, Tone]:
    """Badge of the readings of all rewards, and its colour."""
    n, better, worse = len(readings), readings.count("better"), readings.count("worse")
    if better and worse:
        return "rewards disagree", "open"
    if not better and not worse:
        return "cannot be told apart" if n else "no comparison", "open"
    count = better or worse
    ending = "" if count == n else f" in {count} of {n} rewards"
    return (f"{_MARKS['better' if better else 'worse']}{ending}", "good" if better else "bad")


def _win_lines(report: Report, model: str) -> Iterator[str]:
    for reward, row in report["paired"].get(model, {}).items():
        if row.get("win_rate") is None or report["judges"][reward]["kind"] == "win_rate":
            continue
        rate = _rate_words(row["win_rate"], row["win_rate_ci95"])
        yield f"{reward}: {rate} of the prompts."


def _rate_words(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "no win rate"
    low, high = _ends(interval)
    ends = "" if low is None or high is None else f" ({_share(low)} to {_share(high)})"
    return f"wins {_share(value)}{ends}"


def _share(value: float) -> str:
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def _warnings(report: Report) -> Iterator[Finding]:
    """One badge per kind of warning."""
    by_kind: dict[str, list[str]] = {}
    for row in report["warnings"]:
        by_kind.setdefault(row["kind"], []).append(f"{row['text']}.")
    for kind, texts in by_kind.items():
        yield Finding(_WARNINGS[kind], "", texts, "warning")


def _tiles(report: Report) -> Iterator[Tile]:
    yield Tile("Prompts", f"{report['prompts']:,}")
    baseline = f"baseline {report['baseline']}" if report["paired"] else ""
    yield Tile("Models", f"{len(report['models'])}", baseline)
    calls = sum(row["calls"] for row in report["judges"].values())
    budgets = (report.get("budget") or {}).values()
    saved = sum(row["saved"] for row in budgets)
    yield Tile("Judge calls", f"{calls:,}", f"{saved:,} saved by the budget" if budgets else "")
    kinds = Counter(row["kind"] for row in report["missing"])
    note = ", ".join(f"{n:,} {kind}" for kind, n in kinds.most_common())
    yield Tile("Left out", f"{kinds.total():,}", note or "nothing is missing or broken")


def _add_differences(page: Page, report: Report) -> None:
    if not report["paired"]:
        return
    page.section(
        f"Differences to {report['baseline']}",
        "Each prompt is compared with itself. Right of the line is better; an interval that "
        "crosses the line leaves it open which model is better.",
    )
    for reward in report["rewards"]:
        effects = {
            model: effect
            for model, row in report["paired"].items()
            if (effect := _effects(report, row).get(reward))
        }
        _add_effects(page, effects, reward)
    for reward in report["rewards"]:
        bars = [
            _bar(model, row["win_rate"], row["win_rate_ci95"], row["win_rate_n"])
            for model, by_reward in report["paired"].items()
            if (row := by_reward.get(reward, {})) and row.get("win_rate") is not None
        ]
        if bars and report["judges"][reward]["kind"] == "score":
            title = f"{reward}: share of prompts won against {report['baseline']}, ties half"
            page.bars(bars, title=title, reference=0.5, reference_label="even")


def _add_effects(page: Page, effects: Mapping[str, _Effect], title: str) -> None:
    """Draw effects, if there are any; all are of one kind."""
    if not effects:
        return
    is_rate = next(iter(effects.values())).is_rate
    rows = [
        Interval(label, each.value, each.low, each.high, each.n, each.mark)
        for label, each in effects.items()
    ]
    kind = "share of prompts won" if is_rate else "difference of scores"
    page.intervals(rows, title=f"{title}: {kind}", reference=0.5 if is_rate else 0)


def _bar(label: str, value: float | None, interval: Sequence[float] | None, n: int) -> Bar:
    """Make a bar of an estimated share, which is cut at 0 and 1."""
    low, high = _ends(interval)
    share, low, high = (None if x is None else min(max(x, 0.0), 1.0) for x in (value, low, high))
    return Bar(label, share, low, high, n)


def _add_people(page: Page, report: Report) -> None:
    if not report.get("people"):
        return
    page.section(
        "Votes of people",
        "Share of votes for the model, n prompts. The first bar corrects many verdicts of a judge "
        "by few votes, which must be on prompts chosen at random; a judge alone may be wrong by "
        "any amount.",
    )
    for model, row in report["people"].items():
        both = (row["value"], row["ci95"], row["n_votes"])
        bars = [_bar(f"votes and {row['reward']}", *both)]
        for key, n in (("votes", "n_votes"), ("judge", "n_judged")):
            alone = row.get(f"{key}_alone") or {"value": None, "ci95": None}
            bars.append(_bar(f"{key} alone", alone["value"], alone["ci95"], row[n]))
        title = f"{model} against {report['baseline']}"
        page.bars(bars, title=title, reference=0.5, reference_label="even")


def _add_categories(page: Page, report: Report) -> None:
    categories = report["categories"]
    if not categories:
        return
    page.section(
        "Categories",
        "Where a model is better than the baseline, and where worse. Of twenty categories without "
        "any difference, one is marked by chance.",
    )
    for model in report["paired"]:
        for reward in report["rewards"]:
            effects = {
                name: effect
                for name, row in categories.items()
                if (effect := _effects(report, row["paired"].get(model, {})).get(reward))
            }
            known = {name: each for name, each in effects.items() if each.value is not None}
            order = sorted(known, key=lambda name: -(known[name].value or 0))
            _add_effects(page, {name: known[name] for name in order}, f"{model}, {reward}")
    rows = [
        [name, reward, model, _estimate(value, "mean", "ci95"), value["n"]]
        for name, row in categories.items()
        for model, values in row["models"].items()
        for reward, value in values.items()
    ]
    header = ["category", "reward", "model", "mean", "prompts"]
    page.table(header, rows, folded="Means by category")


def _add_prompts(page: Page, report: Report, outputs: ModelOutputs) -> None:
    rows = [row for row in report["most_different"] if row["prompt"] in outputs.prompts]
    if not rows:
        return
    page.section(
        "Where the models differ most",
        "Prompts with the largest differences, chosen for being extreme: they show what a "
        "difference looks like, not how frequent it is.",
    )
    n_media = 0
    for row in rows:
        example = outputs.prompts[row["prompt"]]
        files = {
            model: by_prompt.get(row["prompt"], ()) for model, by_prompt in outputs.outputs.items()
        }
        n_media += len(example.context) + sum(len(each[:_N_FILES]) for each in files.values())
        if n_media > _N_MEDIA and row is not rows[0]:
            break
        page.subsection(row["text"] or row["prompt"], f"prompt {row['prompt']}")
        title = "source" if example.task is Task.IMAGE_EDITING else "context"
        cards = [_card((medium,), title, [], "") for medium in example.context]
        cards += [_model_card(model, candidates, row) for model, candidates in files.items()]
        page.gallery(cards, compact=True)


def _model_card(model: str, candidates: Sequence[Candidate], row: Mapping[str, Any]) -> Card:
    """Card of the first files of a model, with its value and whether it is an extreme one."""
    values: Mapping[str, float | None] = row["values"]
    known = {name: value for name, value in values.items() if value is not None}
    value, mark = known.get(model), ""
    lines = [f"{row['reward']}: {'no value' if value is None else f'{value:.4g}'}"]
    if value is not None and len({*known.values()}) > 1:
        extremes = {min(known.values()): "▼ worst", max(known.values()): "▲ best"}
        mark = extremes.get(value, "")
    if len(candidates) > _N_FILES:
        lines.append(f"{_N_FILES} of {len(candidates)} files")
    return _card(candidates[:_N_FILES] or ("no output",), model, lines, mark)


def _card(candidates: Sequence[Candidate], title: str, lines: Sequence[str], mark: str) -> Card:
    parts: list[Image | Video | str] = []
    for candidate in candidates:
        parts += candidate if isinstance(candidate, tuple) else (candidate,)
    is_video = any(isinstance(part, Video) for part in parts)
    opened, texts = visible_parts(parts, _VIDEO_PIXELS if is_video else _PIXELS)
    return Card(opened, title, [*lines, *texts], mark=mark)


def _add_ranking(page: Page, report: Report) -> None:
    if not report["bradley_terry"] and not report["win_rates"]:
        return
    page.section(
        "All models against each other",
        "Strengths of Bradley and Terry in log-odds, whose mean is 0, and the ranks that their "
        "intervals allow; share of prompts that the model of the row wins against that of the "
        "column, ties half.",
    )
    for reward in report["rewards"]:
        strengths = report["bradley_terry"].get(reward, {})
        rows = [
            Interval(model, row["strength"], *_ends(row["ci95"]), mark=_ranks(row["rank"]))
            for model, row in sorted(strengths.items(), key=_by_strength)
        ]
        if rows:
            page.intervals(rows, title=f"{reward}: strength")
        rates = report["win_rates"].get(reward, {})
        cells = {
            a: {b: _bar(a, row["value"], row["ci95"], row["n"]) for b, row in by_other.items()}
            for a, by_other in rates.items()
        }
        if cells:
            columns = {model: cells.get(model, {}) for model in report["models"]}
            page.matrix(columns, title=f"{reward}: win rates", corner="row wins against")


def _by_strength(item: tuple[str, Mapping[str, Any]]) -> float:
    return -(item[1]["strength"] or 0.0)


def _ranks(ranks: Sequence[int] | None) -> str:
    if not ranks:
        return ""
    best, worst = ranks
    return f"rank {best}" if best == worst else f"rank {best} to {worst}"


def _add_values(page: Page, report: Report) -> None:
    differences = (
        " Whether two models differ is decided by the paired differences above, not by these "
        "intervals."
    ) * bool(report["paired"])
    page.section(
        "Values",
        f"Files of one prompt are averaged first; intervals are over prompts.{differences}",
    )
    header = ["reward", "model", "mean", "median", "standard deviation", "prompts", "files"]
    names = (("mean", "ci95"), ("median", "median_ci95"), ("spread", "spread_ci95"))
    rows = [
        [reward, model, *(_estimate(row, *pair) for pair in names), row["n"], row.get("outputs")]
        for reward in report["rewards"]
        for model, values in report["models"].items()
        if (row := values.get(reward))
    ]
    page.table(header, rows)


def _estimate(row: Mapping[str, Any], name: str, interval: str) -> Interval:
    return Interval("", row.get(name), *_ends(row.get(interval)))


def _add_correlations(page: Page, report: Report) -> None:
    if not report["correlations"]:
        return
    page.section(
        "Do the rewards agree?",
        "Rank correlation (Spearman) of two rewards over the same outputs: 1 the same order, 0 "
        "none in common, below 0 opposite.",
    )
    rows = [
        Interval(
            f"{row['a']} and {row['b']}",
            row["spearman"],
            *_ends(row["ci95"]),
            row["n"],
        )
        for row in report["correlations"]
    ]
    page.intervals(rows, title="Spearman")


def _add_judges(page: Page, report: Report) -> None:
    page.section(
        "What the rewards are",
        "Flips: comparisons whose winner changes with the order of the two. Noise: standard "
        "deviation of repeated readings of one score.",
    )
    counts = ("calls", "unparsed", "failed", "flips", "reading_sigma")
    rows: list[list[str | float | None]] = []
    for reward, row in report["judges"].items():
        judge = " ".join(filter(None, (row["reference"], row.get("family") or "")))
        low, high = _ends(row.get("scale"))
        scale = "" if low is None or high is None else f", {low:g} to {high:g}"
        measures = row["kind"].replace("_", " ") + scale
        rows.append([reward, judge, measures, *(row.get(name) for name in counts)])
    header = ["reward", "judge", "measures", "calls", "unreadable", "failed", "flips", "noise"]
    page.table(header, rows)
    budget = report.get("budget") or {}
    if not budget:
        return
    page.subsection(
        "Calls for comparisons",
        "Spent on the pairs of models that decide the ranking. Width: of the widest 95 % interval "
        "of the win rate of any two models, for which comparisons spread evenly over all pairs "
        "would be as many as the last column says.",
    )
    header = ["reward", "calls", "of all", "saved", "width", "comparisons", "evenly spread"]
    rows = [
        [
            *(reward, row["calls"], row["full_calls"], row["saved"], row["width"]),
            *(sum(row["pairs"].values()), row.get("uniform_comparisons")),
        ]
        for reward, row in budget.items()
    ]
    page.table(header, rows)
    pairs: list[list[str | float | None]] = [
        [reward, *pair.split("|", 1), n]
        for reward, row in budget.items()
        for pair, n in row["pairs"].items()
    ]
    page.table(["reward", "model", "against", "comparisons"], pairs, folded="Calls by pair")


def _add_coverage(page: Page, report: Report) -> None:
    missing, notes = report["missing"], report["notes"]
    note = "Outputs without a value take no part in any figure of that reward."
    page.section("Coverage", note if missing else "No output is missing or broken.")
    for text in notes:
        page.text(text)
    if not missing:
        return
    counts = Counter((row["model"], row["kind"]) for row in missing)
    kinds = sorted({kind for _, kind in counts})
    models = list(dict.fromkeys(model for model, _ in counts))
    page.table(
        ["model", *kinds], [[model, *(counts[model, kind] for kind in kinds)] for model in models]
    )
    rows = [
        [row["model"], row["prompt"], row["kind"], row.get("reward") or "all", row["reason"]]
        for row in missing
    ]
    folded = f"All {len(rows):,}" if len(rows) > _N_OPEN else ""
    page.table(["model", "prompt", "problem", "reward", "reason"], rows, folded=folded)


def _ends(interval: Sequence[float] | None) -> tuple[float | None, float | None]:
    return (interval[0], interval[1]) if interval else (None, None)


def _all(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else "no reward"
