"""Paired comparison of two runs of one benchmark, on their common items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unified_reward.bench.benchmark import score_value
from unified_reward.bench.metrics import (
    Correlation,
    Indices,
    TieRules,
    bootstrap,
    correlation_coefficient,
    pair_points,
    paired_difference,
)
from unified_reward.bench.run import VERDICTS
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.io.text import read_json
from unified_reward.io.verdict_rows import read_verdict, read_verdict_rows


_CORRELATIONS: tuple[Correlation, ...] = ("spearman", "kendall_tau_b")
RowPair = tuple[Mapping[str, Any], Mapping[str, Any]]
"""Rows of one item in both runs."""


def compare_runs(first: Path, second: Path) -> dict[str, Any]:
    """Compute differences of metrics, B minus A, over all items and by group.

    Pair accuracy leaves labelled ties out and counts a tie of the judge as half; three-way accuracy
    expects the exact outcome. Both have a sign test (McNemar), and intervals by bootstrap over
    prompts, as have the differences of correlations.

    Args:
        first: Folder that ``bench --out`` wrote, A.
        second: Folder of the other run, B.

    Raises:
        ConfigError: The runs are of different benchmarks, or share no item.
        DataError: A folder holds no verdicts.
    """
    runs = [_read(folder) for folder in (first, second)]
    names = [report["name"] for report, _ in runs]
    if names[0] != names[1]:
        raise ConfigError(
            f"{first} is of {names[0]} and {second} of {names[1]}; give two runs of one benchmark"
        )
    (_, a), (_, b) = runs
    shared = [(a[name], b[name]) for name in a if name in b and _is_same(a[name], b[name])]
    if not shared:
        raise ConfigError(f"{first} and {second} share no item; give runs of one seed and limit")
    groups: dict[str, list[RowPair]] = {}
    for pair in shared:
        groups.setdefault(pair[0]["benchmark"]["group"], []).append(pair)
    judges = [report["judge"] for report, _ in runs]
    return {
        "name": names[0],
        "title": f"{names[0]}: A {judges[0]}, B {judges[1]}",
        "a": judges[0],
        "b": judges[1],
        "n": len(shared),
        "n_only_a": len(a) - len(shared),
        "n_only_b": len(b) - len(shared),
        "metrics": _figures(shared),
        "groups": {name: _figures(each) for name, each in groups.items() if len(groups) > 1},
    }


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    try:
        report = read_json(folder / "report.json")
        if not (isinstance(report, dict) and {"name", "judge"} <= report.keys()):
            raise DataError("report.json names no benchmark and judge")
        return report, {row["id"]: row for row in read_verdict_rows(folder / VERDICTS)}
    except DataError as error:
        raise DataError(f"{folder} was not written by bench --out: {error}") from error


def _is_same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a["benchmark"] == b["benchmark"]


def _figures(pairs: Sequence[RowPair]) -> dict[str, Any]:
    compared = [pair for pair in pairs if pair[0]["benchmark"]["winner"]]
    scored = [pair for pair in pairs if pair[0]["status"] != "preferred"]
    figures: dict[str, Any] = {}
    if compared:
        figures["pair_accuracy"] = _accuracy(compared, TieRules("skip", "half"))
        figures["three_way_accuracy"] = _accuracy(compared, TieRules("keep", "wrong"))
    aspects = dict.fromkeys(name for row, _ in scored for name in row["benchmark"]["aspects"])
    for aspect in ("", *aspects):
        for kind in _CORRELATIONS:
            figures[f"{kind}.{aspect}" if aspect else kind] = _correlation(scored, kind, aspect)
    return {name: row for name, row in figures.items() if row}


def _accuracy(pairs: Sequence[RowPair], ties: TieRules) -> dict[str, Any] | None:
    prompts = [row["benchmark"]["cluster"] for row, _ in pairs]
    labels = [row["benchmark"]["winner"] for row, _ in pairs]
    sides = [
        pair_points(
            [read_verdict(pair[side]) for pair in pairs], labels, clusters=prompts, ties=ties
        )
        for side in (0, 1)
    ]
    counted = [
        (a, b, prompt)
        for a, b, prompt in zip(*sides, prompts, strict=True)
        if a is not None and b is not None
    ]
    if not counted:
        return None
    a, b, prompts = zip(*counted, strict=True)
    difference = paired_difference(a, b, clusters=prompts)
    return {
        "a": sum(a) / len(a),
        "b": sum(b) / len(b),
        "difference": difference.value,
        "ci95": [*difference.ci95],
        "n": difference.n,
        "won": difference.won,
        "lost": difference.lost,
        "p_value": difference.p_value,
    }


def _correlation(pairs: Sequence[RowPair], kind: Correlation, aspect: str) -> dict[str, Any] | None:
    """Correlations of overall scores with labels, or of an aspect's scores with its labels."""
    known: list[tuple[float, float, float, str]] = []
    for pair in pairs:
        a, b = (score_value(read_verdict(row), aspect) for row in pair)
        item = pair[0]["benchmark"]
        label = item["aspects"].get(aspect) if aspect else item["score"]
        if a is not None and b is not None and label is not None:
            known.append((a, b, label, item["cluster"]))
    if len(known) < 3:
        return None
    scores_a, scores_b, true = (np.array([row[i] for row in known], dtype=float) for i in range(3))

    def difference(indices: Indices) -> float:
        chosen = true[indices]
        of_a = correlation_coefficient(kind, scores_a[indices], chosen)
        return correlation_coefficient(kind, scores_b[indices], chosen) - of_a

    values = [correlation_coefficient(kind, scores, true) for scores in (scores_a, scores_b)]
    interval = bootstrap(difference, [cluster for *_, cluster in known])
    return {
        "a": _finite(values[0]),
        "b": _finite(values[1]),
        "difference": _finite(values[1] - values[0]),
        "ci95": [*map(_finite, interval)],
        "n": len(known),
        "p_value": None,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
