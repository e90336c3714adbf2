"""The microworld benchmark: held-out captions, exact labels, eight cells.

Protocol: ``n`` test items a cell from one seed. A comparison counts where the utilities differ
(``pair_accuracy``), or differ by at least 0.1 (``pair_accuracy_clear``); a tie said there is worth
half. A score counts by Spearman's rank correlation with the utility. It shows that method and code
work; it says nothing about real pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from unified_reward.bench.calibration import calibration_error, predictions
from unified_reward.bench.metrics import (
    Metric,
    consistency,
    mean_of,
    pair_accuracy,
    spearman,
    three_way_accuracy,
)
from unified_reward.data.microworld import CELLS
from unified_reward.microworld import item
from unified_reward.types import Failed, Form, Preferred, Record, Scored, Unparsed, Verdict, Winner
from unified_reward.verbs import Asks


CLEAR_GAP = 0.1
_CHUNK = 64

Metrics = dict[str, Metric]


def test_records(n: int, seed: int) -> dict[str, list[Record]]:
    """The ``n`` test items of every cell."""
    return {
        cell: [item(task, form, split="test", seed=seed, index=i) for i in range(n)]
        for cell, (task, form) in CELLS.items()
    }


def evaluate(
    judge: Asks,
    *,
    n: int = 200,
    seed: int = 0,
    orders: Literal[1, 2] = 2,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Benchmark a judge on the microworld.

    Args:
        judge: Anything that judges.
        n: Items a cell, eight cells.
        seed: Names the series of test items.
        orders: 2 asks every comparison in both orders.
        progress: Called with the number of items just judged.

    Returns:
        The bench JSON of the package: metrics with 95 % intervals, overall and by cell.
    """
    groups: dict[str, Metrics] = {}
    pooled: dict[str, tuple[list[Record], list[Verdict]]] = {"score": ([], []), "compare": ([], [])}
    for cell, records in test_records(n, seed).items():
        form = CELLS[cell][1]
        verdicts: list[Verdict] = []
        for start in range(0, n, _CHUNK):
            chunk = records[start : start + _CHUNK]
            verdicts += judge.ask([record.sample for record in chunk], orders=orders)
            progress(len(chunk))
        groups[cell] = measure(form, records, verdicts)
        pooled[form][0].extend(records)
        pooled[form][1].extend(verdicts)
    metrics = _compared(*pooled["compare"])
    correlations = [one["spearman"] for cell, one in groups.items() if cell.endswith(".score")]
    metrics["spearman_macro"] = _macro(correlations)
    everything = pooled["score"][1] + pooled["compare"][1]
    return {
        "name": "microworld",
        "judge": judge.name,
        "family": judge.family,
        "orders": orders,
        "seed": seed,
        "n": n * len(CELLS),
        "n_unparsed": sum(isinstance(one, Unparsed) for one in everything),
        "n_failed": sum(isinstance(one, Failed) for one in everything),
        "metrics": _rows(metrics),
        "groups": {cell: _rows(one) for cell, one in groups.items()},
    }


def _compared(records: Sequence[Record], verdicts: Sequence[Verdict]) -> Metrics:
    labels: list[Winner] = [record.target.winner or "tie" for record in records]
    clusters = [record.sample.prompt for record in records]
    clear = [
        i
        for i, record in enumerate(records)
        if abs(record.target.aspects["first"] - record.target.aspects["second"]) >= CLEAR_GAP
    ]
    return {
        "pair_accuracy": pair_accuracy(verdicts, labels, clusters=clusters),
        "pair_accuracy_clear": pair_accuracy(
            [verdicts[i] for i in clear],
            [labels[i] for i in clear],
            clusters=[clusters[i] for i in clear],
        ),
        "three_way_accuracy": three_way_accuracy(verdicts, labels, clusters=clusters),
        "consistency": consistency(verdicts, clusters=clusters),
        "calibration_error": calibration_error(predictions(records, verdicts)),
        "unreadable": _unreadable(verdicts, Preferred),
    }


def _scored(records: Sequence[Record], verdicts: Sequence[Verdict]) -> Metrics:
    values = [
        one.score.value if isinstance(one, Scored) and one.score else None for one in verdicts
    ]
    labels = [record.target.score or 0.0 for record in records]
    clusters = [record.sample.prompt for record in records]
    return {
        "spearman": spearman(values, labels, clusters=clusters),
        "calibration_error": calibration_error(predictions(records, verdicts)),
        "unreadable": _unreadable(verdicts, Scored),
    }


def measure(form: Form, records: Sequence[Record], verdicts: Sequence[Verdict]) -> Metrics:
    """The figures of one cell.

    Args:
        form: What was asked.
        records: Items with their labels.
        verdicts: Of the same length.
    """
    return (_compared if form == "compare" else _scored)(records, verdicts)


def _unreadable(verdicts: Sequence[Verdict], wanted: type) -> Metric:
    missing = [float(not isinstance(one, wanted)) for one in verdicts]
    return mean_of(missing, range(len(missing)))


def _macro(metrics: Sequence[Metric]) -> Metric:
    """Mean of independent figures; the interval adds their half-widths in quadrature."""
    value = sum(one.value for one in metrics) / len(metrics)
    half = math.sqrt(sum(((one.ci95[1] - one.ci95[0]) / 2) ** 2 for one in metrics)) / len(metrics)
    return Metric(value, (value - half, value + half), sum(one.n for one in metrics))


def _rows(metrics: Metrics) -> dict[str, dict[str, Any]]:
    return {name: one.row() for name, one in metrics.items()}
