"""HTML pages of a benchmark and of an audit: figures, published results, worst disagreements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from unified_reward import media
from unified_reward.bench.audit import AuditResult
from unified_reward.bench.benchmark import Benchmark, JudgedItem
from unified_reward.core.errors import MediaError
from unified_reward.core.samples import Image
from unified_reward.core.verdicts import Preferred
from unified_reward.core.words import count_of
from unified_reward.io.text import read_table
from unified_reward.report.page import Animation, Bar, Card, Page


_N_CARDS = 12
_N_FRAMES, _FPS = 8, 4.0
_COLUMNS = ["group", "metric", "value", "from", "to", "n"]
_SHARES = {
    "position_flips": "winner changes with the order",
    "ties": "ties",
    "unreadable": "unreadable",
    "longer_preferred": "longer answer preferred (0.5: no preference)",
    "repetition_preferred": "repeated answer preferred (0.5 is best)",
    "cycles": "cycles among triples (chance 0.25)",
    "agreement": "scores agree with comparisons",
    "calibration_error": "calibration error of comparisons",
    "commonest_score": "items with the most frequent score",
}
"""Figures of an audit drawn as bars, with their labels."""
_CHANGES = {"flips.": "Winners that change", "score_shift.": "Distance of scores on [0, 1]"}


def published_results(benchmark: str) -> list[dict[str, str]]:
    """Results that others have published on a benchmark, each with its source.

    Keys: ``system``, ``group`` (empty for all), ``metric``, ``value``; ``kind``, ``claimed`` by its
    own authors or ``independent``; ``comparable`` with ours (yes, partly or no) and ``why``.
    """
    file = resources.files("unified_reward.bench") / "published.csv"
    rows = (row for _, row in read_table(Path(str(file))) if isinstance(row, dict))
    return [row for row in rows if row["benchmark"] == benchmark]


def write_page(
    benchmark: Benchmark, report: Mapping[str, Any], worst: Iterable[JudgedItem], path: Path
) -> None:
    """Write the report of a run, and the items furthest from their labels, as one HTML file."""
    page = Page(f"{report['name']}: {report['judge']}", lead=benchmark.description)
    orders = f"comparisons in {report['orders']} order(s)"
    votes = f"majority of {report['votes']} votes" if "votes" in report else orders
    page.section(
        "Figures",
        f"{count_of(report['n'], 'item')}, {votes}, seed {report['seed']}; "
        f"{report['n_unparsed']} unreadable, {report['n_failed']} failed, "
        f"{count_of(report.get('n_broken_rows', 0), 'broken row')} in the files. "
        "Whiskers are 95 % intervals.",
    )
    groups = {"all": report["metrics"], **report["groups"]}
    for name in benchmark.headlines:
        bars = [_bar(_words(group), row[name]) for group, row in groups.items() if name in row]
        page.bars(bars, title=_words(name).capitalize())
    page.section("Worst disagreements", "The judge is most certain, and people disagree.")
    page.gallery([_card(item) for item in worst if item.disagreement > 0])
    others = published_results(benchmark.name)
    if others:
        _add_published(page, others, report)
    page.section("All figures", "With 95 % intervals and the number of items each is over.")
    page.table(_COLUMNS, _rows(report))
    page.write(path)


def _words(name: str) -> str:
    return name.replace("_", " ").replace(".", ", ")


def write_audit_page(result: AuditResult, path: Path) -> None:
    """Write the result of an audit as one HTML file."""
    report, metrics = result.report, result.report["metrics"]
    page = Page(
        f"Audit of {report['judge']}",
        lead="What changes its verdicts and should not: positions, length, repetition and "
        "perturbed images; and how well scores, comparisons and labels agree.",
    )
    page.section(
        "Over all",
        f"{count_of(report['n'], 'item')}, {count_of(report['n_questions'], 'question')}, "
        f"{report['n_unparsed']} unreadable, {report['n_failed']} failed. "
        "Whiskers are 95 % intervals.",
    )
    bars = [_bar(label, metrics[name]) for name, label in _SHARES.items() if name in metrics]
    page.bars(bars, title="Shares")
    for kind, title in _CHANGES.items():
        changes = {name: row for name, row in metrics.items() if name.startswith(kind)}
        bars = [
            _bar(name.removeprefix(kind).replace("_", " "), row) for name, row in changes.items()
        ]
        page.bars(bars, title=f"{title}, by perturbation of the images")
    flipped = [item for item in result.comparisons if _is_inconsistent(item)]
    page.section("The orders disagree", "Comparisons whose winner depends on the position.")
    page.gallery([_card(item) for item in flipped[:_N_CARDS]])
    page.section("All figures", "A shift or a pull of 0 and an agreement of 1 are best.")
    page.table(_COLUMNS, _rows(report))
    page.write(path)


def _is_inconsistent(item: JudgedItem) -> bool:
    return isinstance(item.verdict, Preferred) and item.verdict.consistent is False


def _rows(report: Mapping[str, Any]) -> list[list[str | float | None]]:
    """Rows of the table of all figures of a report."""
    groups = report["groups"] if len(report["groups"]) > 1 else {}
    return [
        [group, _label(metric, row), row["value"], *row["ci95"], row["n"]]
        for group, metrics in {"all": report["metrics"], **groups}.items()
        for metric, row in metrics.items()
    ]


def _label(metric: str, row: Mapping[str, Any]) -> str:
    if "judge_ties" not in row:
        return metric
    return f"{metric} (human ties {row['human_ties']}, judge ties {row['judge_ties']})"


def _bar(label: str, metric: Mapping[str, Any]) -> Bar:
    value, (low, high) = metric["value"], metric["ci95"]
    value, low, high = (None if x is None else min(1.0, max(0.0, x)) for x in (value, low, high))
    return Bar(label, value, low, high, metric["n"])


def _add_published(
    page: Page, others: Sequence[Mapping[str, str]], report: Mapping[str, Any]
) -> None:
    """Add a table of published results, claimed and independent ones in two columns, and ours."""
    page.section(
        "Published figures",
        "Claimed: by a system's own authors. Independent: by anybody else. Read what keeps them "
        "from being compared.",
    )
    rows: list[list[str | float | None]] = []
    for other in others:
        group, metric, value = other["group"], other["metric"], float(other["value"])
        metrics = report["groups"].get(group, {}) if group else report["metrics"]
        is_claim = other["kind"] == "claimed"
        rows.append(
            [
                *(other["system"], group or "all", metric),
                *(value if is_claim else None, None if is_claim else value),
                metrics.get(metric, {}).get("value"),
                *(other["comparable"], other["why"], other["source"]),
            ]
        )
    columns = ["system", "group", "metric", "claimed", "independent", "ours", "comparable", "why"]
    page.table([*columns, "source"], rows)


def _card(item: JudgedItem) -> Card:
    """Card of an item and its verdict; media that cannot be opened are left out."""
    sample, target = item.example.sample, item.target
    lines = [f"{i}. {text}" for i, text in enumerate(sample.candidates, 1) if isinstance(text, str)]
    if target.winner or target.score is not None:
        lines.append(f"label: {target.winner or f'{target.score:g}'}")
    return Card([*_opened_media(item)], sample.prompt, lines, item.verdict, item.group)


def _opened_media(item: JudgedItem) -> Iterator[Any]:
    for medium in item.example.media:
        try:
            if isinstance(medium, Image):
                yield media.open_image(medium)
            else:
                yield Animation(media.sample_frames(medium, _N_FRAMES).pixels, _FPS)
        except MediaError:
            continue
