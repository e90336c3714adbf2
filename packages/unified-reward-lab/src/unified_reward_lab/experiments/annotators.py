"""Annotators: accuracy and biases of judges that were trained on labels with errors.

All are measured by the true utilities, on comparisons of held-out captions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from unified_reward.bench.metrics import Metric, mean_metric
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Failed, Preferred, Unparsed, Verdict
from unified_reward.judges.registry import open_reference
from unified_reward_lab.bench.microworld import CLEAR_GAP
from unified_reward_lab.bench.oracle import mean_known
from unified_reward_lab.examples import CELLS
from unified_reward_lab.experiments.experiment import Experiment
from unified_reward_lab.experiments.page import table, with_interval
from unified_reward_lab.microworld import make_example, utility_gap


@dataclass(frozen=True)
class AnnotatorStudy:
    """Groups of judges that differ only in the annotator of their training examples."""

    groups: Mapping[str, Mapping[str, str]]
    """By group and annotator: the reference of a judge, see `open_judge`."""
    reference: str = "noiseless"
    """Annotator of each group that the others are compared with."""
    n: int = 400
    """Held-out comparisons per task."""
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
        """Largest number of comparisons; those without a clear gap are left out."""
        return sum(map(len, self.groups.values())) * self.n * len(_TASKS)


_TASKS = [task for task, form in CELLS.values() if form == "compare"]


def run(config: AnnotatorStudy, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Measure every judge on the same comparisons.

    Args:
        config: Judges and number of comparisons.
        progress: Called with the number of comparisons just judged.

    Returns:
        By group and annotator, over comparisons whose utilities differ by at least a tenth:
        accuracy in one order (``one_order``) and in both (``both_orders``), each with its
        difference from the reference's on the same items (``one_order_apart``,
        ``both_orders_apart``); ``position``, the probability of the first candidate minus that of
        the second, averaged over both orders (0 is no bias); and the accuracy on answers where the
        better one is ``longer`` and where it is ``shorter``.
    """
    made = (
        make_example(task, "compare", split="test", seed=config.seed, index=i)
        for task in _TASKS
        for i in range(config.n)
    )
    examples = [example for example in made if utility_gap(example) >= CLEAR_GAP]
    clusters = [example.prompt for example in examples]
    groups: dict[str, dict[str, Any]] = {}
    n_unparsed = n_failed = 0
    for group, judges in config.groups.items():
        rows = groups[group] = {}
        points: dict[str, _Points] = {}
        for name, reference in judges.items():
            judge = open_reference(reference, truth=examples)
            verdicts = judge.ask([example.sample for example in examples], on_progress=progress)
            points[name] = _points(examples, verdicts)
            rows[name] = _metrics(examples, verdicts, points[name])
            n_unparsed += sum(isinstance(verdict, Unparsed) for verdict in verdicts)
            n_failed += sum(isinstance(verdict, Failed) for verdict in verdicts)
        for name, row in rows.items():
            pairs = zip(_Points._fields, points[name], points[config.reference], strict=True)
            for orders, own, reference in pairs:
                row[f"{orders}_apart"] = mean_known([*(own - reference)], clusters)
    return {
        "name": "annotators",
        "seed": config.seed,
        "n": len(examples),
        "reference": config.reference,
        "n_unparsed": n_unparsed,
        "n_failed": n_failed,
        "groups": groups,
    }


class _Points(NamedTuple):
    """Points of every comparison: 1 right, 0 wrong or unreadable, half for a tie; shape (n,)."""

    one_order: np.ndarray
    both_orders: np.ndarray


def _points(examples: Sequence[Example], verdicts: Sequence[Verdict]) -> _Points:
    first = [v.orders[0] if isinstance(v, Preferred) and v.orders else v for v in verdicts]
    return _Points(*(np.array([*map(_point, examples, each)]) for each in (first, verdicts)))


def _point(example: Example, verdict: Verdict) -> float:
    if not isinstance(verdict, Preferred):
        return 0.0
    return 0.5 if verdict.winner == "tie" else float(verdict.winner == example.target.winner)


def _metrics(
    examples: Sequence[Example], verdicts: Sequence[Verdict], points: _Points
) -> dict[str, Any]:
    clusters = [example.prompt for example in examples]
    position: list[float | None] = []
    for verdict in verdicts:
        if isinstance(verdict, Preferred):
            a, b = verdict.orders or (verdict, verdict)
            position.append((a.p_first - a.p_second + b.p_second - b.p_first) / 2)
        else:
            position.append(None)
    longer = np.array([_better_is_longer(example) for example in examples])
    return {
        "unreadable": position.count(None),
        **{orders: mean_known([*each], clusters) for orders, each in points._asdict().items()},
        "position": mean_known(position, clusters),
        "longer": _mean_where(points.both_orders, clusters, longer > 0).row(),
        "shorter": _mean_where(points.both_orders, clusters, longer < 0).row(),
    }


def _better_is_longer(example: Example) -> int:
    """1 if the better answer has more words, -1 if fewer, 0 if equally many or no answers."""
    words = [len(answer.split()) for answer in example.candidates if isinstance(answer, str)]
    if len(words) < 2 or words[0] == words[1]:
        return 0
    return 1 if (words[0] > words[1]) == (example.target.winner == "first") else -1


def _mean_where(points: np.ndarray, clusters: Sequence[str], chosen: np.ndarray) -> Metric:
    kept = np.flatnonzero(chosen).tolist()
    return mean_metric(points[kept].tolist(), [clusters[i] for i in kept])


def page(report: Mapping[str, Any]) -> str:
    """Format the report as a Markdown section."""
    columns = {
        "both_orders": "pair accuracy, both orders",
        "both_orders_apart": f"minus {report['reference']}",
        "one_order": "one order",
        "one_order_apart": f"minus {report['reference']}",
        "position": "position bias",
        "longer": "better answer is longer",
        "shorter": "better answer is shorter",
    }
    lines = [
        "## Annotators with errors",
        "",
        "Groups of judges that differ only in the annotator of their training examples, on "
        f"{report['n']} held-out comparisons with utilities at least 0.1 apart (seed "
        f"{report['seed']}), measured by the true utilities. In brackets 95 % intervals, bootstrap "
        "over prompts. One training seed each.",
        "",
        *table(
            ["judges", "annotator", *columns.values()],
            (
                [group, name, *(with_interval(row[column]) for column in columns)]
                for group, rows in report["groups"].items()
                for name, row in rows.items()
            ),
        ),
    ]
    return "\n".join(lines) + "\n"


EXPERIMENT = Experiment(AnnotatorStudy, run, page)
