"""Judges trained by annotators who err: what is left of the truth, and of their biases.

All are held against the noiseless utility, on comparisons of held-out captions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from unified_reward.bench.metrics import Indices, Metric, bootstrap, mean_metric
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Failed, Preferred, Unparsed, Verdict
from unified_reward.judges.registry import open_reference
from unified_reward_lab.bench.microworld import CLEAR_GAP
from unified_reward_lab.examples import CELLS
from unified_reward_lab.experiments.page import table, told
from unified_reward_lab.microworld import make_example, utility_gap


_CHUNK = 128


@dataclass(frozen=True)
class Annotators:
    """Groups of judges that differ in who labelled their training items."""

    groups: Mapping[str, Mapping[str, str]]
    """By the name of the group: a judge, as `open_judge` takes it, by the name of its annotator."""
    reference: str = "noiseless"
    """The annotator of each group that the others are held against."""
    n: int = 400
    """Held-out comparisons a task."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, judges in self.groups.items():
            if self.reference not in judges:
                raise ConfigError(
                    f"group {name!r} lacks the reference {self.reference!r}; "
                    f"it has {', '.join(judges)}"
                )

    @property
    def total(self) -> int:
        """Comparisons judged at most; those without a clear gap are left out."""
        return sum(map(len, self.groups.values())) * self.n * len(_TASKS)


_TASKS = [task for task, form in CELLS.values() if form == "compare"]


def annotators(
    config: Annotators, progress: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Measure every judge on the same comparisons.

    Args:
        config: Which judges, and on how many items.
        progress: Called with the number of items just judged.

    Returns:
        By group and annotator, over pairs whose utilities differ by a tenth at least: accuracy
        asked once (``one_order``) and in both orders (``both_orders``), each with its difference
        from the reference's on the same pairs (``one_order_apart``, ``both_orders_apart``);
        ``position``, the probability of the candidate shown
        first minus that of the other, meaned over both orders (0 is no bias); and the accuracy on
        answers where the better one is ``longer`` and where it is ``shorter``.
    """
    records = [
        record
        for task in _TASKS
        for i in range(config.n)
        if utility_gap(
            record := make_example(task, "compare", split="test", seed=config.seed, index=i)
        )
        >= CLEAR_GAP
    ]
    clusters = [record.sample.prompt for record in records]
    groups: dict[str, dict[str, Any]] = {}
    n_unparsed = n_failed = 0
    for group, judges in config.groups.items():
        rows = groups[group] = {}
        points: dict[str, _Points] = {}
        for name, reference in judges.items():
            verdicts = _asked(open_reference(reference, truth=records), records, progress)
            points[name] = _points(records, verdicts)
            rows[name] = _figures(records, verdicts, points[name])
            n_unparsed += sum(isinstance(one, Unparsed) for one in verdicts)
            n_failed += sum(isinstance(one, Failed) for one in verdicts)
        for name, row in rows.items():
            pairs = zip(_Points._fields, points[name], points[config.reference], strict=True)
            for asked, own, held in pairs:
                row[f"{asked}_apart"] = _mean(own - held, clusters).row()
    return {
        "name": "annotators",
        "seed": config.seed,
        "n": len(records),
        "reference": config.reference,
        "n_unparsed": n_unparsed,
        "n_failed": n_failed,
        "groups": groups,
    }


class _Points(NamedTuple):
    """1 right, 0 wrong or unreadable, half a tie; shape (n,) each."""

    one_order: np.ndarray
    both_orders: np.ndarray


def _points(records: Sequence[Example], verdicts: Sequence[Verdict]) -> _Points:
    once = [one.orders[0] if isinstance(one, Preferred) and one.orders else one for one in verdicts]
    each = ([_point(*one) for one in zip(records, told, strict=True)] for told in (once, verdicts))
    return _Points(*map(np.array, each))


def _asked(
    judge: BaseJudge, records: Sequence[Example], progress: Callable[[int], None]
) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for start in range(0, len(records), _CHUNK):
        samples = [record.sample for record in records[start : start + _CHUNK]]
        verdicts += judge.ask(samples)
        progress(len(samples))
    return verdicts


def _point(record: Example, verdict: Verdict) -> float:
    """1 right, 0 wrong or unreadable, half a tie."""
    if not isinstance(verdict, Preferred):
        return 0.0
    return 0.5 if verdict.winner == "tie" else float(verdict.winner == record.target.winner)


def _figures(
    records: Sequence[Example], verdicts: Sequence[Verdict], points: _Points
) -> dict[str, Any]:
    clusters = [record.sample.prompt for record in records]
    asked = [one.orders or (one, one) if isinstance(one, Preferred) else () for one in verdicts]
    position = [
        (orders[0].p_first - orders[0].p_second + orders[1].p_second - orders[1].p_first) / 2
        for orders in asked
        if orders
    ]
    readable = [cluster for cluster, orders in zip(clusters, asked, strict=True) if orders]
    longer = np.array([_better_is_longer(record) for record in records])
    return {
        "unreadable": len(records) - len(readable),
        **{asked: _mean(one, clusters).row() for asked, one in points._asdict().items()},
        "position": _mean(np.array(position), readable).row(),
        "longer": _mean_where(points.both_orders, clusters, longer > 0).row(),
        "shorter": _mean_where(points.both_orders, clusters, longer < 0).row(),
    }


def _better_is_longer(record: Example) -> int:
    """1 where the better answer has more words, -1 where it has fewer, 0 as many or no answers."""
    words = [len(one.split()) for one in record.sample.candidates if isinstance(one, str)]
    if len(words) < 2 or words[0] == words[1]:
        return 0
    return 1 if (words[0] > words[1]) == (record.target.winner == "first") else -1


def _mean(values: np.ndarray, clusters: Sequence[str]) -> Metric:
    """Mean of any values with a bootstrap interval over prompts."""
    if not len(values):
        return Metric(math.nan, (math.nan, math.nan), 0)

    def mean(drawn: Indices) -> float:
        return float(values[drawn].mean())

    return Metric(float(values.mean()), bootstrap(mean, clusters), len(values))


def _mean_where(points: np.ndarray, clusters: Sequence[str], chosen: np.ndarray) -> Metric:
    kept = [i for i, is_kept in enumerate(chosen.tolist()) if is_kept]
    return mean_metric(points[kept].tolist(), [clusters[i] for i in kept])


def page(report: Mapping[str, Any]) -> str:
    """The report as a Markdown section."""
    columns = {
        "both_orders": "pair accuracy, both orders",
        "both_orders_apart": f"from {report['reference']}",
        "one_order": "asked once",
        "one_order_apart": f"from {report['reference']}",
        "position": "pull of the first place",
        "longer": "better answer is longer",
        "shorter": "better answer is shorter",
    }
    lines = [
        "## Annotators who err",
        "",
        "Groups of judges that differ in nothing but who labelled their training items, on "
        f"{report['n']} held-out comparisons with utilities at least 0.1 apart (seed "
        f"{report['seed']}), held against the noiseless utility. In brackets 95 % intervals, "
        "bootstrap over prompts. One training seed each.",
        "",
        *table(
            ["judges", "annotator", *columns.values()],
            (
                [group, name, *(told(row[one]) for one in columns)]
                for group, rows in report["groups"].items()
                for name, row in rows.items()
            ),
        ),
    ]
    return "\n".join(lines) + "\n"
