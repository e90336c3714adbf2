"""Benchmarks: their items, the order of questions, and the figures computed from the verdicts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast

from unified_reward.bench.calibration import brier_score, calibration_error, collect_predictions
from unified_reward.bench.metrics import (
    Correlation,
    Metric,
    TieRules,
    consistency,
    correlation,
    macro_average,
    mean_metric,
    pair_accuracy,
    three_way_accuracy,
)
from unified_reward.core.samples import Example, Target
from unified_reward.core.verdicts import WIN_SHARES, Preferred, Scored, Verdict, Winner
from unified_reward.io.rows import Row


Metrics = dict[str, Metric]
CORRELATIONS: tuple[Correlation, ...] = ("spearman", "pearson", "kendall_tau_b", "kendall_tau_c")


class JudgedItem(NamedTuple):
    """Item of a benchmark with its verdict, as if it was asked in the order of the file."""

    example: Example
    group: str
    verdict: Verdict

    target = property(lambda self: cast("Target", self.example.target))

    @property
    def cluster(self) -> str:
        """Prompt and context files; items that share them are not independent."""
        sample = self.example.sample
        files = [str(part.source) for part in sample.context if isinstance(part.source, str | Path)]
        return "\n".join([sample.prompt, *files])

    @property
    def disagreement(self) -> float:
        """Distance of the verdict from the label, 0 to 1; 0 where either is missing."""
        verdict, target = self.verdict, self.target
        if isinstance(verdict, Preferred) and target.winner:
            return abs(verdict.probability - WIN_SHARES[target.winner])
        if isinstance(verdict, Scored) and verdict.score and target.score is not None:
            value = verdict.score.normalized
            label = target.scale.share(target.score) if target.scale else None
            if value is not None and label is not None:
                return abs(value - label)
        return 0.0


class BenchmarkMetrics(NamedTuple):
    """Figures of a benchmark, over all items and by group."""

    metrics: Metrics
    groups: dict[str, Metrics]


@dataclass(frozen=True)
class BenchmarkOptions:
    """Items of a benchmark and the orders in which they are asked."""

    limit: int | None = None
    """Maximum number of items, sampled by id and seed; of the microworld, items per cell. None for
    all, or for the benchmark's own number."""
    seed: int = 0
    """Random seed of the items sampled and of the comparisons asked in swapped order."""
    orders: Literal[1, 2] = 2
    """2 asks every comparison in both orders."""
    votes: int = 0
    """A comparison is the majority of this many votes, each in a random order; 0 for none."""


@dataclass(frozen=True)
class Benchmark:
    """Benchmark of judges: labelled items and the figures computed from the verdicts on them."""

    name: str
    description: str
    """One sentence: what it measures."""
    paper: str
    read_rows: Callable[[Path | None, BenchmarkOptions], Iterator[Row]]
    """Reads the items from a folder, at most ``limit`` of them, as they are consumed; a row that
    cannot be used comes as ``Failed``. Raises before the first row where the folder lacks files."""
    compute_metrics: Callable[[Sequence[JudgedItem]], BenchmarkMetrics]
    """Computes the figures. Media in memory are no longer part of the items; paths are."""
    group: Callable[[Example], str] = lambda _: ""
    """Group of an item."""
    swap_half: bool = True
    """Half of the comparisons, by id and seed, are asked in swapped order, verdicts mirrored."""
    headlines: tuple[str, ...] = ("pair_accuracy",)
    """Metrics drawn as bars, the most important first."""
    hub: str = ""
    """Hub id of the data set, where its files can be used as they are."""


def item_hash(name: str, seed: int) -> int:
    """64-bit hash of (seed, item id); independent of the other items."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8])


def pairwise_metrics(items: Sequence[JudgedItem]) -> BenchmarkMetrics:
    """Metrics of comparisons without groups."""
    return BenchmarkMetrics(pair_metrics(items), {})


def grouped_pairwise_metrics(items: Sequence[JudgedItem]) -> BenchmarkMetrics:
    """Metrics of comparisons, over all items and by group, and the mean of the groups."""
    groups = by_group(items, pair_metrics)
    metrics = with_macro_average(pair_metrics(items), groups, "pair_accuracy")
    return BenchmarkMetrics(metrics, groups)


def pair_metrics(
    items: Sequence[JudgedItem], *, judge_ties: Literal["wrong", "half"] = "wrong"
) -> Metrics:
    """Accuracies of comparisons by every rule for ties; see `TieRules`.

    Args:
        items: Comparisons.
        judge_ties: Rule of ``pair_accuracy``; ``pair_accuracy_ties_…`` has the other one.
    """
    verdicts = [item.verdict for item in items]
    labels: list[Winner] = [item.target.winner or "tie" for item in items]
    clusters = [item.cluster for item in items]
    other: Literal["wrong", "half"] = "half" if judge_ties == "wrong" else "wrong"

    def accuracy(ties: TieRules) -> Metric:
        return pair_accuracy(verdicts, labels, clusters=clusters, ties=ties)

    return {
        "pair_accuracy": accuracy(TieRules("skip", judge_ties)),
        f"pair_accuracy_ties_{other}": accuracy(TieRules("skip", other)),
        "three_way_accuracy": three_way_accuracy(verdicts, labels, clusters=clusters),
        "calibrated_accuracy": accuracy(TieRules("keep", "calibrated")),
        "consistency": consistency(verdicts, clusters=clusters),
        **probability_metrics(items),
    }


def probability_metrics(items: Sequence[JudgedItem]) -> Metrics:
    """Calibration of the predictions, and the share of items without any."""
    predictions = collect_predictions(
        [item.example for item in items], [item.verdict for item in items]
    )
    missing = [float(not isinstance(item.verdict, Preferred | Scored)) for item in items]
    return {
        "calibration_error": calibration_error(predictions),
        "brier_score": brier_score(predictions),
        "unreadable": mean_metric(missing, range(len(missing))),
    }


def correlation_metrics(
    items: Sequence[JudgedItem],
    label: Callable[[Target], float | None] = lambda target: target.score,
    aspect: str = "",
) -> Metrics:
    """Correlations of scores with labels.

    Args:
        items: Items to score.
        label: Labelled value of an item; items without one (None) are left out.
        aspect: Aspect whose score is used where the judge gives it one; else the overall score.
    """
    labelled = [(item, value) for item in items if (value := label(item.target)) is not None]
    values = [score_value(item.verdict, aspect) for item, _ in labelled]
    labels = [value for _, value in labelled]
    clusters = [item.cluster for item, _ in labelled]
    return {kind: correlation(kind, values, labels, clusters=clusters) for kind in CORRELATIONS}


def score_value(verdict: Verdict, aspect: str = "") -> float | None:
    """Score of an aspect where the verdict has one, else the overall score; None without either."""
    if not isinstance(verdict, Scored):
        return None
    score = verdict.aspects.get(aspect, verdict.score)
    return score.value if score else None


def by_group(
    items: Sequence[JudgedItem], compute: Callable[[Sequence[JudgedItem]], Metrics]
) -> dict[str, Metrics]:
    """Metrics of every group, in the order of the items."""
    groups: dict[str, list[JudgedItem]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
    return {name: compute(group) for name, group in groups.items()}


def with_macro_average(metrics: Metrics, groups: Mapping[str, Metrics], *names: str) -> Metrics:
    """Metrics, followed by the means over groups of the named ones."""
    if not groups:
        return metrics
    averages = {name: macro_average([group[name] for group in groups.values()]) for name in names}
    return metrics | {f"{name}_macro": average for name, average in averages.items()}
