"""Two runs of one benchmark held against each other, on the items that both were asked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unified_reward.bench.benchmark import said
from unified_reward.bench.metrics import (
    Correlation,
    Indices,
    bootstrap,
    correlation_coefficient,
    pair_points,
    paired_difference,
)
from unified_reward.bench.run import VERDICTS, read_rows
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.io.verdict_rows import read_verdict


_CORRELATIONS: tuple[Correlation, ...] = ("spearman", "kendall_tau_b")
Both = tuple[Mapping[str, Any], Mapping[str, Any]]
"""The rows of one item in both runs."""


def compare_runs(first: Path, second: Path) -> dict[str, Any]:
    """B minus A, over all items and by group.

    Pair accuracy leaves labelled ties out and takes a tie of the judge for half; three-way accuracy
    wants the exact outcome. Both are tested by signs (McNemar), and have intervals by bootstrap
    over prompts, as have the differences of correlations.

    Args:
        first: Folder that ``bench --out`` wrote, A.
        second: B.

    Raises:
        ConfigError: They are of different benchmarks, or share no item.
        DataError: A folder holds no verdicts.
    """
    runs = [_read(folder) for folder in (first, second)]
    names = [one["name"] for one, _ in runs]
    if names[0] != names[1]:
        raise ConfigError(f"{first} is of {names[0]} and {second} of {names[1]}; give two of one")
    (_, a), (_, b) = runs
    shared = [(a[name], b[name]) for name in a if name in b and _is_same(a[name], b[name])]
    if not shared:
        raise ConfigError(f"{first} and {second} share no item; were other seeds or limits asked?")
    groups: dict[str, list[Both]] = {}
    for pair in shared:
        groups.setdefault(pair[0]["benchmark"]["group"], []).append(pair)
    judges = [one["judge"] for one, _ in runs]
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
        report = json.loads((folder / "report.json").read_text("utf-8"))
        return report, {row["id"]: row for row in read_rows(folder / VERDICTS)}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder} is no folder that bench --out wrote: {error}") from error


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one["benchmark"] == other["benchmark"]


def _figures(pairs: Sequence[Both]) -> dict[str, Any]:
    compared = [pair for pair in pairs if pair[0]["benchmark"]["winner"]]
    scored = [pair for pair in pairs if pair[0]["status"] != "preferred"]
    found: dict[str, Any] = {}
    if compared:
        found["pair_accuracy"] = _accuracy(compared, human_ties="skip", judge_ties="half")
        found["three_way_accuracy"] = _accuracy(compared, human_ties="keep", judge_ties="wrong")
    aspects = dict.fromkeys(name for one, _ in scored for name in one["benchmark"]["aspects"])
    for aspect in ("", *aspects):
        for kind in _CORRELATIONS:
            found[f"{kind}.{aspect}" if aspect else kind] = _correlation(scored, kind, aspect)
    return {name: row for name, row in found.items() if row}


def _accuracy(pairs: Sequence[Both], **conventions: Any) -> dict[str, Any] | None:
    prompts = [one["benchmark"]["cluster"] for one, _ in pairs]
    labels = [one["benchmark"]["winner"] for one, _ in pairs]
    sides = [
        pair_points(
            [read_verdict(pair[side]) for pair in pairs], labels, clusters=prompts, **conventions
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
    found = paired_difference(a, b, clusters=prompts)
    return {
        "a": sum(a) / len(a),
        "b": sum(b) / len(b),
        "difference": found.value,
        "ci95": [*found.ci95],
        "n": found.n,
        "won": found.won,
        "lost": found.lost,
        "p_value": found.p_value,
    }


def _correlation(pairs: Sequence[Both], kind: Correlation, aspect: str) -> dict[str, Any] | None:
    """Of overall scores, or with the label of an aspect."""
    told = [
        (said(read_verdict(one), aspect), said(read_verdict(other), aspect), one["benchmark"])
        for one, other in pairs
    ]
    labels = [row["aspects"].get(aspect) if aspect else row["score"] for *_, row in told]
    known = [
        (a, b, label, row["cluster"])
        for (a, b, row), label in zip(told, labels, strict=True)
        if a is not None and b is not None and label is not None
    ]
    if len(known) < 3:
        return None
    a, b, true = (np.array([row[i] for row in known], dtype=float) for i in range(3))

    def difference(drawn: Indices) -> float:
        return correlation_coefficient(kind, b[drawn], true[drawn]) - correlation_coefficient(
            kind, a[drawn], true[drawn]
        )

    values = [correlation_coefficient(kind, one, true) for one in (a, b)]
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
