"""Agreement of verdicts with labels, each figure with its sample size and 95 % interval.

Pure functions. They know verdicts and labels, not benchmarks. A verdict that is missing
(unreadable, failed) is wrong for an accuracy and absent for a correlation; callers count it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from unified_reward.types import Preferred, Verdict, Winner


_Z95 = 1.959963984540054
_RESAMPLES = 1000

Indices = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Metric:
    """A figure with the number of items it is over and its 95 % interval."""

    value: float
    ci95: tuple[float, float]
    n: int

    def row(self) -> dict[str, Any]:
        """As JSON; a figure that does not exist is null."""
        value, *sides = (one if math.isfinite(one) else None for one in (self.value, *self.ci95))
        return {"value": value, "ci95": sides, "n": self.n}


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson score interval of a proportion, 95 %.

    Wilson 1927, doi:10.1080/01621459.1927.10502953.

    Args:
        successes: Between 0 and n; halves count for ties scored half.
        n: Number of independent trials, >= 0; nothing is known from 0.

    >>> [round(side, 3) for side in wilson(8, 10)]
    [0.49, 0.943]
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, _Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    spread = share * (1 - share) / n + z2 / (4 * n * n)
    half = _Z95 * math.sqrt(spread) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(
    statistic: Callable[[Indices], float],
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    resamples: int = _RESAMPLES,
) -> tuple[float, float]:
    """Percentile interval of a statistic, 95 %, resampling whole clusters with replacement.

    Items of one prompt are not independent, so prompts are drawn, not items.

    Args:
        statistic: From item indices, shape (m,), to the figure; NaN resamples are left out.
        clusters: The cluster of every item, n of them.
        seed: Seeds the draws.
        resamples: Number of draws.
    """
    members: dict[Hashable, list[int]] = {}
    for i, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(i)
    groups: list[Indices] = [np.array(group, dtype=np.int64) for group in members.values()]
    rng = np.random.default_rng(seed)
    values: list[float] = []
    for _ in range(resamples):
        drawn = rng.integers(len(groups), size=len(groups))
        value = statistic(np.concatenate([groups[int(k)] for k in drawn]))
        if math.isfinite(value):
            values.append(value)
    if not values:
        return math.nan, math.nan
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def mean_of(points: Sequence[float], clusters: Sequence[Hashable], *, seed: int = 0) -> Metric:
    """Mean of points in [0, 1], with its interval.

    Wilson's where items are independent, else bootstrap by cluster; where all points are equal, so
    that no resample differs, Wilson's for as many trials as there are clusters.
    """
    n, n_clusters = len(points), len(set(clusters))
    if n == 0:
        return Metric(math.nan, (0.0, 1.0), 0)
    array = np.asarray(points)
    mean = float(array.mean())
    if n_clusters == n or np.ptp(array) == 0:
        return Metric(mean, wilson(mean * n_clusters, n_clusters), n)
    return Metric(mean, mean_interval(points, clusters, seed=seed), n)


def mean_interval(
    values: Sequence[float], clusters: Sequence[Hashable], *, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a mean of any values, 95 %, by the draws of `bootstrap`, but faster.

    >>> low, high = mean_interval([-1.0, 0.0, 2.0], "abc")
    >>> low <= 1 / 3 <= high
    True
    """
    places = {cluster: k for k, cluster in enumerate(dict.fromkeys(clusters))}
    owner = np.array([places[cluster] for cluster in clusters])
    sums, counts = np.bincount(owner, values), np.bincount(owner)
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(sums), size=len(sums)) for _ in range(_RESAMPLES))
    low, high = np.percentile([sums[one].sum() / counts[one].sum() for one in drawn], [2.5, 97.5])
    return float(low), float(high)


def pair_accuracy(
    verdicts: Sequence[Verdict],
    labels: Sequence[Winner],
    *,
    clusters: Sequence[Hashable],
    human_ties: Literal["keep", "skip"] = "skip",
    judge_ties: Literal["wrong", "half"] = "half",
) -> Metric:
    """Share of comparisons in which judge and label name the same better one.

    Args:
        verdicts: What the judge said; anything but a preference is wrong.
        labels: What people, or a known world, said. Same length.
        clusters: The prompt of every comparison.
        human_ties: ``skip`` leaves labelled ties out; ``keep`` wants a tie there.
        judge_ties: What a tie is worth where the label is none: nothing, or half.

    Raises:
        ValueError: The lengths differ.
    """
    points: list[float] = []
    kept: list[Hashable] = []
    for verdict, label, cluster in zip(verdicts, labels, clusters, strict=True):
        if label == "tie" and human_ties == "skip":
            continue
        winner = verdict.winner if isinstance(verdict, Preferred) else None
        half = winner == "tie" and label != "tie" and judge_ties == "half"
        points.append(0.5 if half else float(winner == label))
        kept.append(cluster)
    return mean_of(points, kept)


def three_way_accuracy(
    verdicts: Sequence[Verdict], labels: Sequence[Winner], *, clusters: Sequence[Hashable]
) -> Metric:
    """Share of comparisons with exactly the labelled outcome: first, tie or second."""
    return pair_accuracy(verdicts, labels, clusters=clusters, human_ties="keep", judge_ties="wrong")


def consistency(verdicts: Sequence[Verdict], *, clusters: Sequence[Hashable]) -> Metric:
    """Share of comparisons asked in both orders in which both named the same winner."""
    asked = [
        (float(verdict.consistent), cluster)
        for verdict, cluster in zip(verdicts, clusters, strict=True)
        if isinstance(verdict, Preferred) and verdict.consistent is not None
    ]
    return mean_of([point for point, _ in asked], [cluster for _, cluster in asked])


def spearman(
    values: Sequence[float | None],
    labels: Sequence[float],
    *,
    clusters: Sequence[Hashable],
    seed: int = 0,
) -> Metric:
    """Spearman's rank correlation of scores with labels, in [-1, 1]; NaN where either is constant.

    Args:
        values: The judge's scores; None where it gave none, which are left out.
        labels: What people, or a known world, said. Same length.
        clusters: The prompt of every item.
        seed: Seeds the bootstrap.
    """
    answered = [
        (value, label, cluster)
        for value, label, cluster in zip(values, labels, clusters, strict=True)
        if value is not None
    ]
    if len(answered) < 3:
        return Metric(math.nan, (math.nan, math.nan), len(answered))
    said = np.array([one[0] for one in answered])
    true = np.array([one[1] for one in answered])

    def correlation(drawn: Indices) -> float:
        x, y = said[drawn], true[drawn]
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            return math.nan
        return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])

    interval = bootstrap(correlation, [one[2] for one in answered], seed=seed)
    return Metric(correlation(np.arange(len(answered))), interval, len(answered))
