"""The page of a benchmark: figures, published ones beside them, and the worst disagreements."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from unified_reward import media
from unified_reward.bench.audit import AuditResult
from unified_reward.bench.benchmark import Benchmark, JudgedItem
from unified_reward.bench.run import Result
from unified_reward.core.errors import MediaError
from unified_reward.core.samples import Image, Video
from unified_reward.core.verdicts import Preferred, Scored, Verdict
from unified_reward.report.page import Animation, Bar, Card, Page


_SHOWN = 12
_FRAMES, _FPS = 8, 4.0
_COLUMNS = ["group", "metric", "value", "from", "to", "n"]
_SHARES = {
    "position_flips": "winner changes with the order",
    "ties": "ties",
    "unreadable": "unreadable",
    "longer_preferred": "longer answer preferred (0.5 says nothing)",
    "repetition_preferred": "said twice preferred to said once (0.5 best)",
    "cycles": "cycles among triples (chance 0.25)",
    "agreement": "scores agree with comparisons",
    "calibration_error": "calibration error of comparisons",
    "commonest_score": "items with the commonest score",
}
"""Figures that are drawn, and what they are called for people."""
_MOVED = {"flips.": "Winners that are others", "score_shift.": "Distance of scores on [0, 1]"}
_WORTH = {"first": 1.0, "tie": 0.5, "second": 0.0}


def published_results(benchmark: str) -> list[dict[str, str]]:
    """Figures that others have published of a benchmark, each with its source.

    Keys: ``system``, ``group`` (empty for all), ``metric``, ``value``; ``kind``, ``claimed`` by its
    own authors or ``independent``; ``comparable`` with ours (yes, partly or no) and ``why``.
    """
    file = resources.files("unified_reward.bench") / "published.csv"
    rows = csv.DictReader(file.read_text("utf-8").splitlines())
    return [row for row in rows if row["benchmark"] == benchmark]


def write_page(protocol: Benchmark, result: Result, path: Path) -> None:
    """Write what a run gave as one file to look at."""
    report = result.report
    page = Page(f"{report['name']}: {report['judge']}", lead=protocol.says)
    orders = f"comparisons in {report['orders']} order(s)"
    asked = f"majority of {report['votes']} votes" if "votes" in report else orders
    page.section(
        "Figures",
        f"{report['n']} items, {asked}, seed {report['seed']}; {report['n_unparsed']} unreadable, "
        f"{report['n_failed']} failed, {report.get('n_broken_rows', 0)} broken rows in the files. "
        "Whiskers are 95 % intervals.",
    )
    groups = {"all": report["metrics"], **report["groups"]}
    for name in protocol.headlines:
        bars = [_bar(_plain(group), row[name]) for group, row in groups.items() if name in row]
        page.bars(bars, title=_plain(name).capitalize())
    worst = sorted(result.items, key=disagreement, reverse=True)[:_SHOWN]
    page.section("Worst disagreements", "Where the judge is surest, and people say otherwise.")
    page.gallery([card(one) for one in worst if disagreement(one) > 0])
    others = published_results(protocol.name)
    if others:
        add_published(page, others, report)
    page.section("All figures", "With 95 % intervals and the number of items each is over.")
    page.table(_COLUMNS, _rows(report))
    page.write(path)


def _plain(name: str) -> str:
    return name.replace("_", " ").replace(".", ", ")


def write_audit_page(audited: AuditResult, path: Path) -> None:
    """Write an audit as one file to look at: what moves verdicts, and the comparisons it moves."""
    report, metrics = audited.report, audited.report["metrics"]
    page = Page(
        f"Audit of {report['judge']}",
        lead="What moves its verdicts that should not: places, length, saying a thing twice, and "
        "changed pictures; and how far scores, comparisons and labels agree.",
    )
    page.section(
        "Over all",
        f"{report['n']} items, {report['n_questions']} questions, {report['n_unparsed']} "
        f"unreadable, {report['n_failed']} failed. Whiskers are 95 % intervals.",
    )
    shown = {label: metrics.get(name) for name, label in _SHARES.items()}
    page.bars([_bar(label, row) for label, row in shown.items() if row], title="Shares")
    for kind, title in _MOVED.items():
        moved = {name: row for name, row in metrics.items() if name.startswith(kind)}
        bars = [_bar(name.removeprefix(kind).replace("_", " "), moved[name]) for name in moved]
        page.bars(bars, title=f"{title}, by what was done to the pictures")
    turned = [one for one in audited.comparisons if _is_turned(one.verdict)]
    page.section("The orders disagree", "Comparisons whose winner hangs on the place.")
    page.gallery([card(one) for one in turned[:_SHOWN]])
    page.section("All figures", "A shift or a pull of 0 and an agreement of 1 are best.")
    page.table(_COLUMNS, _rows(report))
    page.write(path)


def _is_turned(verdict: Verdict) -> bool:
    return isinstance(verdict, Preferred) and verdict.consistent is False


def _rows(report: Mapping[str, Any]) -> list[list[str | float | None]]:
    """Every figure of a report as a row of a table."""
    groups = report["groups"] if len(report["groups"]) > 1 else {}
    return [
        [group, _named(metric, row), row["value"], *row["ci95"], row["n"]]
        for group, metrics in {"all": report["metrics"], **groups}.items()
        for metric, row in metrics.items()
    ]


def _named(metric: str, row: Mapping[str, Any]) -> str:
    if "judge_ties" not in row:
        return metric
    return f"{metric} (human ties {row['human_ties']}, judge ties {row['judge_ties']})"


def _bar(label: str, metric: Mapping[str, Any]) -> Bar:
    value, (low, high) = metric["value"], metric["ci95"]
    value, low, high = (None if x is None else min(1.0, max(0.0, x)) for x in (value, low, high))
    return Bar(label, value, low, high, metric["n"])


def add_published(
    page: Page, others: Sequence[Mapping[str, str]], report: Mapping[str, Any]
) -> None:
    """Figures of others in two columns, claimed and independently reported, and ours."""
    page.section(
        "Published figures",
        "Claimed: by a system's own authors. Independent: by anybody else. Read what keeps them "
        "from being compared.",
    )
    rows: list[list[str | float | None]] = []
    for one in others:
        figures = report["groups"].get(one["group"], {}) if one["group"] else report["metrics"]
        value, is_claim = float(one["value"]), one["kind"] == "claimed"
        rows.append(
            [
                *(one["system"], one["group"] or "all", one["metric"]),
                *(value if is_claim else None, None if is_claim else value),
                figures.get(one["metric"], {}).get("value"),
                *(one["comparable"], one["why"], one["source"]),
            ]
        )
    columns = ["system", "group", "metric", "claimed", "independent", "ours", "comparable", "why"]
    page.table([*columns, "source"], rows)


def disagreement(item: JudgedItem) -> float:
    """How far a verdict is from its label, from 0 to 1; 0 where either is missing."""
    verdict, target = item.verdict, item.target
    if isinstance(verdict, Preferred) and target.winner:
        return abs(verdict.probability - _WORTH[target.winner])
    if isinstance(verdict, Scored) and verdict.score and target.score is not None and target.scale:
        said = verdict.score.normalized
        low, high = target.scale.low, target.scale.high
        if said is not None and low is not None and high is not None:
            return abs(said - (target.score - low) / (high - low))
    return 0.0


def card(item: JudgedItem) -> Card:
    """An item with what the judge says; media that cannot be opened are left out."""
    sample, target = item.record.sample, item.target
    lines = [f"{i}. {one}" for i, one in enumerate(sample.candidates, 1) if isinstance(one, str)]
    if target.winner or target.score is not None:
        lines.append(f"label: {target.winner or f'{target.score:g}'}")
    return Card([*_shown(item)], sample.prompt, lines, item.verdict, item.group)


def _shown(item: JudgedItem) -> Iterator[Any]:
    for medium in item.record.media:
        try:
            if isinstance(medium, Image):
                yield media.open_image(medium)
            elif isinstance(medium, Video):
                yield Animation(media.sample_frames(medium, _FRAMES).pixels, _FPS)
        except MediaError:
            continue
