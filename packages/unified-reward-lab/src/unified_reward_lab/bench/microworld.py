"""The microworld benchmark: held-out captions, exact labels, eight cells.

Protocol: ``limit`` test items a cell from one seed, 200 by default. A comparison counts where the
utilities differ (``pair_accuracy``), or differ by at least 0.1 (``pair_accuracy_clear``); a tie
said there is worth half. A score counts by Spearman's rank correlation with the utility. It shows
that method and code work; it says nothing about real pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from unified_reward.bench.benchmark import (
    Benchmark,
    BenchmarkMetrics,
    BenchmarkOptions,
    JudgedItem,
    Metrics,
    by_group,
    correlation_metrics,
    pair_metrics,
    probability_metrics,
    with_macro_average,
)
from unified_reward.bench.metrics import pair_accuracy
from unified_reward.bench.run import read_items, run
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.samples import Example, Form, Task
from unified_reward.core.verdicts import Winner
from unified_reward.io.rows import Row
from unified_reward_lab.examples import CELLS, EDITING
from unified_reward_lab.microworld import make_example


CLEAR_GAP = 0.1
_ITEMS = 200


def test_records(n: int, seed: int) -> dict[str, list[Example]]:
    """The ``n`` test items of every cell."""
    return _records(n, seed, CELLS)


def _records(n: int, seed: int, cells: Mapping[str, tuple[Task, Form]]) -> dict[str, list[Example]]:
    return {
        cell: [make_example(task, form, split="test", seed=seed, index=i) for i in range(n)]
        for cell, (task, form) in cells.items()
    }


def _rows(
    _: Path | None, how: BenchmarkOptions, cells: Mapping[str, tuple[Task, Form]] = CELLS
) -> Iterator[Row]:
    many = _records(_ITEMS if how.limit is None else how.limit, how.seed, cells).values()
    for line, record in enumerate((one for cell in many for one in cell), 1):
        yield Row(line, record.id, record)


def _cell(record: Example) -> str:
    return f"{record.task.value}.{record.sample.form}"


def evaluate(
    judge: BaseJudge,
    *,
    n: int = _ITEMS,
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
    how = BenchmarkOptions(n, seed, orders)
    return run(MICROWORLD, judge, read_items(MICROWORLD, None, how), how, progress=progress).report


def compare_cell(items: Sequence[JudgedItem]) -> Metrics:
    """The figures of comparisons."""
    clear = [
        one
        for one in items
        if abs(one.target.aspects["first"] - one.target.aspects["second"]) >= CLEAR_GAP
    ]
    labels: list[Winner] = [one.target.winner or "tie" for one in clear]
    found = pair_metrics(items, judge_ties="half")
    found["pair_accuracy_clear"] = pair_accuracy(
        [one.verdict for one in clear], labels, clusters=[one.cluster for one in clear]
    )
    return found


def score_cell(items: Sequence[JudgedItem]) -> Metrics:
    """The figures of scores."""
    return correlation_metrics(items) | probability_metrics(items)


def _measure(items: Sequence[JudgedItem]) -> BenchmarkMetrics:
    scored = [one for one in items if one.record.sample.form == "score"]
    asked = [one for one in items if one.record.sample.form == "compare"]
    scores = by_group(scored, score_cell)
    groups = scores | by_group(asked, compare_cell)
    metrics = compare_cell(asked) | {"unreadable": probability_metrics(items)["unreadable"]}
    return BenchmarkMetrics(
        with_macro_average(metrics, scores, "spearman", "kendall_tau_b"),
        {cell: groups[cell] for cell in (*CELLS, *EDITING) if cell in groups},
    )


MICROWORLD = Benchmark(
    "microworld",
    "Share of comparisons of held-out captions whose better candidate is named, and rank "
    "correlation of scores with exact utilities, in four tasks.",
    "",
    _rows,
    _measure,
    headlines=("pair_accuracy", "spearman"),
    group=_cell,
    exchange=False,
)
MICROWORLD_EDITING = replace(
    MICROWORLD,
    name="microworld_editing",
    says="The same of edited pictures, each judged beside the picture before and an instruction.",
    rows=partial(_rows, cells=EDITING),
)
