"""What a benchmark is: its items, how they are asked, and what figures come of the verdicts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast

from unified_reward.bench.calibration import brier_score, calibration_error, collect_predictions
from unified_reward.bench.metrics import (
    Correlation,
    HumanTies,
    JudgeTies,
    Metric,
    consistency,
    correlation,
    macro_average,
    mean_metric,
    pair_accuracy,
    three_way_accuracy,
)
from unified_reward.core.samples import Example, Target
from unified_reward.core.verdicts import Preferred, Score, Scored, Verdict, Winner
from unified_reward.io.rows import Row


Metrics = dict[str, Metric]
CORRELATIONS: tuple[Correlation, ...] = ("spearman", "pearson", "kendall_tau_b", "kendall_tau_c")


class JudgedItem(NamedTuple):
    """An item of a benchmark with its verdict, both in the order of the file."""

    record: Example
    group: str
    verdict: Verdict

    target = property(lambda self: cast("Target", self.record.target))

    @property
    def cluster(self) -> str:
        """Prompt and files it is about: items that share them are not independent."""
        sample = self.record.sample
        files = [str(one.source) for one in sample.context if isinstance(one.source, str | Path)]
        return "\n".join([sample.prompt, *files])


class BenchmarkMetrics(NamedTuple):
    """The figures of a benchmark."""

    metrics: Metrics
    groups: dict[str, Metrics]


@dataclass(frozen=True)
class BenchmarkOptions:
    """How a benchmark is asked."""

    limit: int | None = None
    """Items at most, drawn by id and seed; of the microworld, items a cell. None for all."""
    seed: int = 0
    """Names which items are drawn and which comparisons are exchanged."""
    orders: Literal[1, 2] = 2
    """2 asks every comparison in both orders."""
    votes: int = 0
    """A comparison is the majority of so many votes, each in an order drawn by lot; 0 for none."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark."""

    name: str
    says: str
    """One sentence: what it computes."""
    paper: str
    rows: Callable[[Path | None, BenchmarkOptions], Iterator[Row]]
    """Items of a folder, as many as are wanted. What cannot be read is ``Failed``."""
    measure: Callable[[Sequence[JudgedItem]], BenchmarkMetrics]
    group: Callable[[Example], str] = lambda _: ""
    exchange: bool = True
    """Half of the comparisons, by id and seed, are asked the other way round."""
    headlines: tuple[str, ...] = ("pair_accuracy",)
    """The metrics that are drawn, the first the most important."""
    hub: str = ""
    """Id of the set on the hub, where its files may be taken as they lie."""


def item_hash(name: str, seed: int) -> int:
    """A number of 64 bits that is this item's under this seed, whatever else is asked."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8])


def pairwise_metrics(items: Sequence[JudgedItem]) -> BenchmarkMetrics:
    """Comparisons without groups."""
    return BenchmarkMetrics(pair_metrics(items), {})


def grouped_pairwise_metrics(items: Sequence[JudgedItem]) -> BenchmarkMetrics:
    """Comparisons, over all and by group, and the mean of the groups."""
    groups = by_group(items, pair_metrics)
    return BenchmarkMetrics(
        with_macro_average(pair_metrics(items), groups, "pair_accuracy"), groups
    )


def pair_metrics(
    items: Sequence[JudgedItem],
    *,
    judge_ties: JudgeTies = "wrong",
    human_ties: HumanTies = "skip",
) -> Metrics:
    """What comparisons are worth, by every convention about ties; see `pair_accuracy`.

    ``pair_accuracy`` has the conventions given, its neighbours the others.
    """
    verdicts = [one.verdict for one in items]
    labels: list[Winner] = [one.target.winner or "tie" for one in items]
    clusters = [one.cluster for one in items]
    other: JudgeTies = "half" if judge_ties == "wrong" else "wrong"

    def accuracy(human: HumanTies, judge: JudgeTies) -> Metric:
        return pair_accuracy(
            verdicts, labels, clusters=clusters, human_ties=human, judge_ties=judge
        )

    return {
        "pair_accuracy": accuracy(human_ties, judge_ties),
        f"pair_accuracy_ties_{other}": accuracy(human_ties, other),
        "three_way_accuracy": three_way_accuracy(verdicts, labels, clusters=clusters),
        "calibrated_accuracy": accuracy("keep", "calibrated"),
        "consistency": consistency(verdicts, clusters=clusters),
        **probability_metrics(items),
    }


def probability_metrics(items: Sequence[JudgedItem]) -> Metrics:
    """How far predictions are to be believed, and how many items have none."""
    told = collect_predictions([one.record for one in items], [one.verdict for one in items])
    missing = [float(not isinstance(one.verdict, Preferred | Scored)) for one in items]
    return {
        "calibration_error": calibration_error(told),
        "brier_score": brier_score(told),
        "unreadable": mean_metric(missing, range(len(missing))),
    }


def correlation_metrics(
    items: Sequence[JudgedItem],
    label: Callable[[Target], float | None] = lambda one: one.score,
    aspect: str = "",
) -> Metrics:
    """Correlations of scores with labels; an aspect's score where the judge gives it one."""
    known = [(one, value) for one in items if (value := label(one.target)) is not None]
    values = [said(one.verdict, aspect) for one, _ in known]
    labels = [value for _, value in known]
    clusters = [one.cluster for one, _ in known]
    return {kind: correlation(kind, values, labels, clusters=clusters) for kind in CORRELATIONS}


def said(verdict: Verdict, aspect: str = "") -> float | None:
    """The score of an aspect where there is one, else the overall one."""
    if not isinstance(verdict, Scored):
        return None
    score: Score | None = verdict.aspects.get(aspect, verdict.score)
    return score.value if score else None


def by_group(
    items: Sequence[JudgedItem], measure: Callable[[Sequence[JudgedItem]], Metrics]
) -> dict[str, Metrics]:
    """The figures of every group, in the order of the items."""
    groups: dict[str, list[JudgedItem]] = {}
    for one in items:
        groups.setdefault(one.group, []).append(one)
    return {name: measure(group) for name, group in groups.items()}


def with_macro_average(metrics: Metrics, groups: Mapping[str, Metrics], *names: str) -> Metrics:
    """The metrics, and behind them the means over groups of these."""
    means = {
        f"{name}_macro": macro_average([one[name] for one in groups.values()]) for name in names
    }
    return metrics | means if groups else metrics
