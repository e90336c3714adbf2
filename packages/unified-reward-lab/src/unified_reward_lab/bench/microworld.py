"""The microworld benchmark: held-out captions, exact labels, eight cells.

Protocol: ``limit`` test items per cell from one seed, 200 by default. A comparison counts where the
utilities differ (``pair_accuracy``), or differ by at least 0.1 (``pair_accuracy_clear``); a tie of
the judge is worth half there. Scores are measured by Spearman's rank correlation with the utility.
It shows that method and code work; it says nothing about real images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

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
from unified_reward.core.samples import Example, Form, Task
from unified_reward.core.verdicts import Winner
from unified_reward.io.rows import Row
from unified_reward_lab.examples import CELLS, EDITING
from unified_reward_lab.microworld import make_example, utility_gap


CLEAR_GAP = 0.1
_N_ITEMS = 200


def test_records(n: int, seed: int) -> dict[str, list[Example]]:
    """First ``n`` test items of every cell."""
    return {
        cell: [make_example(task, form, split="test", seed=seed, index=i) for i in range(n)]
        for cell, (task, form) in CELLS.items()
    }


def _read_rows(
    _: Path | None, options: BenchmarkOptions, cells: Mapping[str, tuple[Task, Form]] = CELLS
) -> Iterator[Row]:
    """Items cell by cell, each rendered when it is consumed."""
    n = _N_ITEMS if options.limit is None else options.limit
    for i, (task, form) in enumerate(cells.values()):
        for index in range(n):
            example = make_example(task, form, split="test", seed=options.seed, index=index)
            yield Row(i * n + index + 1, example.id, example)


def _cell(example: Example) -> str:
    return f"{example.task.value}.{example.sample.form}"


def compare_cell(items: Sequence[JudgedItem]) -> Metrics:
    """Metrics of comparisons."""
    clear = [judged for judged in items if utility_gap(judged.example) >= CLEAR_GAP]
    labels: list[Winner] = [judged.target.winner or "tie" for judged in clear]
    clear_accuracy = pair_accuracy(
        [judged.verdict for judged in clear],
        labels,
        clusters=[judged.cluster for judged in clear],
    )
    return pair_metrics(items, judge_ties="half") | {"pair_accuracy_clear": clear_accuracy}


def score_cell(items: Sequence[JudgedItem]) -> Metrics:
    """Metrics of scores."""
    return correlation_metrics(items) | probability_metrics(items)


def _compute_metrics(items: Sequence[JudgedItem]) -> BenchmarkMetrics:
    scored = [judged for judged in items if judged.example.sample.form == "score"]
    compared = [judged for judged in items if judged.example.sample.form == "compare"]
    scores = by_group(scored, score_cell)
    groups = scores | by_group(compared, compare_cell)
    metrics = compare_cell(compared) | {"unreadable": probability_metrics(items)["unreadable"]}
    return BenchmarkMetrics(
        with_macro_average(metrics, scores, "spearman", "kendall_tau_b"),
        {cell: groups[cell] for cell in (*CELLS, *EDITING) if cell in groups},
    )


MICROWORLD = Benchmark(
    "microworld",
    "Share of comparisons of held-out captions whose better candidate is named, and rank "
    "correlation of scores with exact utilities, in four tasks.",
    "",
    _read_rows,
    _compute_metrics,
    headlines=("pair_accuracy", "spearman"),
    group=_cell,
    swap_half=False,
)
MICROWORLD_EDITING = replace(
    MICROWORLD,
    name="microworld_editing",
    description="Share of comparisons of edited images whose better candidate is named, and rank "
    "correlation of scores with exact utilities, beside the source image and the instruction.",
    read_rows=partial(_read_rows, cells=EDITING),
)
