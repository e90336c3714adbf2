"""Agreement of verdicts with labels, each figure with its sample size and 95 % interval.

Pure functions. They know verdicts and labels, not benchmarks. A verdict that is missing
(unreadable, failed) is wrong for an accuracy and absent for a correlation; callers count it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from unified_reward.core.extensions import extra
from unified_reward.core.verdicts import Preferred, Verdict, Winner


_Z95 = 1.959963984540054
_RESAMPLES = 1000

Indices = np.ndarray[tuple[int], np.dtype[np.int64]]
Correlation = Literal["spearman", "pearson", "kendall_tau_b", "kendall_tau_c"]


@dataclass(frozen=True)
class TieRules:
    """Rules for ties in pair accuracies.

    >>> TieRules("keep", "calibrated").row()
    {'human_ties': 'keep', 'judge_ties': 'calibrated', 'tie_split': 'halves'}
    """

    human: Literal["keep", "skip"] = "skip"
    """``skip`` leaves labelled ties out; ``keep`` expects a tie there."""
    judge: Literal["wrong", "half", "calibrated"] = "half"
    """Worth of the judge's tie where the label is none: 0 or 0.5. ``calibrated`` is for judges that
    are never exactly undecided: a tie is a preference within a margin (`tie_threshold`)."""
    split: Literal["halves", "same"] = "halves"
    """Items on which the margin is chosen: ``halves`` chooses on one half of the prompts for the
    other; ``same`` on the items themselves, which flatters, but is what others publish."""

    def row(self) -> dict[str, str]:
        """JSON of the rules that apply."""
        split = {"tie_split": self.split} if self.judge == "calibrated" else {}
        return {"human_ties": self.human, "judge_ties": self.judge, **split}


_DEFAULT_TIES = TieRules()


@dataclass(frozen=True)
class Metric:
    """A figure with the number of items it is over and its 95 % interval."""

    value: float
    ci95: tuple[float, float]
    n: int
    conventions: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Conventions it was computed by, where there are several."""

    def row(self) -> dict[str, Any]:
        """JSON of the figure; null where it does not exist."""
        value, *sides = (one if math.isfinite(one) else None for one in (self.value, *self.ci95))
        return {"value": value, "ci95": sides, "n": self.n, **self.conventions}


def wilson(successes: float, n: float) -> tuple[float, float]:
    """Wilson score interval of a proportion, 95 %.

    Wilson 1927, doi:10.1080/01621459.1927.10502953.

    Args:
        successes: Between 0 and n; halves count for ties scored half.
        n: Number of independent trials, >= 0, also an effective one; nothing is known from 0.

    >>> [round(side, 3) for side in wilson(8, 10)]
    [0.49, 0.943]
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, _Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    spread = share * (1 - share) / n + z2 / (4 * n * n)
    half = _Z95 * math.sqrt(spread) / (1 + z2 / n)
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    return low, 1.0 if successes == n else min(1.0, middle + half)


def bootstrap(
    statistic: Callable[[Indices], float],
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic, 95 %, resampling whole clusters with replacement.

    Items of one prompt are not independent, so prompts are resampled, not items.

    Args:
        statistic: From item indices, shape (m,), to the figure; NaN resamples are left out.
        clusters: Cluster of every item, n of them.
        seed: Random seed.
    """
    members: dict[Hashable, list[int]] = {}
    for i, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(i)
    groups: list[Indices] = [np.array(group, dtype=np.int64) for group in members.values()]
    is_even = len({len(group) for group in groups}) == 1
    table = np.stack(groups) if is_even else None  # rows are taken faster than many arrays
    rng = np.random.default_rng(seed)
    values: list[float] = []
    for _ in range(_RESAMPLES):
        resample = rng.integers(len(groups), size=len(groups))
        if table is None:
            value = statistic(np.concatenate([groups[int(k)] for k in resample]))
        else:
            value = statistic(table[resample].reshape(-1))
        if math.isfinite(value):
            values.append(value)
    if not values:
        return math.nan, math.nan
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def mean_metric(points: Sequence[float], clusters: Sequence[Hashable]) -> Metric:
    """Mean of points in [0, 1], with its interval.

    The interval is Wilson's where every item has a cluster of its own, else a bootstrap by cluster.
    Where all points are equal, so that no resample differs, it is Wilson's for as many trials as
    there are clusters.
    """
    n, n_clusters = len(points), len(set(clusters))
    if n == 0:
        return Metric(math.nan, (0.0, 1.0), 0)
    array = np.asarray(points)
    mean = float(array.mean())
    if n_clusters == n or np.ptp(array) == 0:
        return Metric(mean, wilson(mean * n_clusters, n_clusters), n)
    return Metric(mean, mean_interval(points, clusters), n)


def mean_interval(
    values: Sequence[float], clusters: Sequence[Hashable], *, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a mean, 95 %, on the same resamples as `bootstrap`, but faster.

    >>> low, high = mean_interval([-1.0, 0.0, 2.0], "abc")
    >>> low <= 1 / 3 <= high
    True
    """
    places = {cluster: k for k, cluster in enumerate(dict.fromkeys(clusters))}
    owner = np.array([places[cluster] for cluster in clusters])
    sums, counts = np.bincount(owner, values), np.bincount(owner)
    rng = np.random.default_rng(seed)
    resamples = (rng.integers(len(sums), size=len(sums)) for _ in range(_RESAMPLES))
    means = [sums[chosen].sum() / counts[chosen].sum() for chosen in resamples]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def pair_points(
    verdicts: Sequence[Verdict],
    labels: Sequence[Winner],
    *,
    clusters: Sequence[Hashable],
    ties: TieRules = _DEFAULT_TIES,
) -> list[float | None]:
    """Points of every comparison, 0 to 1; None where it does not count. See `pair_accuracy`."""
    winners: list[Winner | None] = [
        item.winner if isinstance(item, Preferred) else None for item in verdicts
    ]
    if ties.judge == "calibrated":
        margins = [
            2 * item.probability - 1 if isinstance(item, Preferred) else 0.0 for item in verdicts
        ]
        winners = _with_ties(winners, margins, labels, clusters, ties.split)
    points: list[float | None] = []
    for winner, label in zip(winners, labels, strict=True):
        half = winner == "tie" and label != "tie" and ties.judge == "half"
        point = 0.5 if half else float(winner == label)
        points.append(None if label == "tie" and ties.human == "skip" else point)
    return points


def pair_accuracy(
    verdicts: Sequence[Verdict],
    labels: Sequence[Winner],
    *,
    clusters: Sequence[Hashable],
    ties: TieRules = _DEFAULT_TIES,
) -> Metric:
    """Share of comparisons in which judge and label name the same better candidate.

    Args:
        verdicts: Verdicts of the judge; anything but a preference is wrong.
        labels: True outcomes, of the same length.
        clusters: Prompt of every comparison.
        ties: Rules for ties of judge and label.

    Raises:
        ValueError: The lengths differ.
    """
    points = pair_points(verdicts, labels, clusters=clusters, ties=ties)
    counted = [(p, cluster) for p, cluster in zip(points, clusters, strict=True) if p is not None]
    metric = mean_metric([point for point, _ in counted], [cluster for _, cluster in counted])
    return replace(metric, conventions=ties.row())


def three_way_accuracy(
    verdicts: Sequence[Verdict], labels: Sequence[Winner], *, clusters: Sequence[Hashable]
) -> Metric:
    """Share of comparisons with exactly the labelled outcome: first, tie or second."""
    return pair_accuracy(verdicts, labels, clusters=clusters, ties=TieRules("keep", "wrong"))


def tie_threshold(margins: Sequence[float], labels: Sequence[Winner]) -> float:
    """Margin up to which a preference is called a tie, so that most outcomes are right.

    Deutsch et al. 2023, arXiv:2305.14324, section 5; the smallest of equally good thresholds.

    Args:
        margins: Above 0 where the first is preferred, below where the second is.
        labels: True outcomes, of the same length.

    >>> tie_threshold([0.9, -0.7, 0.1, -0.2], ["first", "second", "tie", "tie"])
    0.2
    """
    sizes = np.abs(np.asarray(margins))
    order = np.argsort(sizes, kind="stable")
    names = [("first" if one > 0 else "second") for one in margins]
    is_tie = np.array([label == "tie" for label in labels])
    is_right = np.array([name == label for name, label in zip(names, labels, strict=True)])
    is_right[sizes == 0] = False
    # Net outcomes gained by calling everything up to each place in the order a tie.
    gains = (is_tie.astype(int) - is_right.astype(int))[order].cumsum()
    ends = np.flatnonzero(np.diff(sizes[order], append=np.inf))
    exact = is_tie[sizes == 0].sum()
    best = max(ends, key=lambda end: gains[end], default=None)
    return float(sizes[order][best]) if best is not None and gains[best] > exact else 0.0


def _with_ties(
    winners: Sequence[Winner | None],
    margins: Sequence[float],
    labels: Sequence[Winner],
    clusters: Sequence[Hashable],
    split: Literal["halves", "same"],
) -> list[Winner | None]:
    """Winners with preferences within the margin turned into ties; None stays None."""
    halves = [hashlib.sha256(str(one).encode()).digest()[0] % 2 for one in clusters]
    limits: dict[int, float] = {}
    for half in (0, 1):
        fit = [
            i
            for i, winner in enumerate(winners)
            if winner and (split == "same" or halves[i] != half)
        ]
        limits[half] = tie_threshold([margins[i] for i in fit], [labels[i] for i in fit])
    return [
        winner and ("tie" if abs(margin) <= limits[half] else "first" if margin > 0 else "second")
        for winner, margin, half in zip(winners, margins, halves, strict=True)
    ]


def exact_match_accuracy(
    answers: Sequence[str | None], labels: Sequence[str], *, clusters: Sequence[Hashable]
) -> Metric:
    """Share of items with exactly the labelled word; a missing answer (None) is wrong."""
    points = [float(answer == label) for answer, label in zip(answers, labels, strict=True)]
    return mean_metric(points, clusters)


def consistency(verdicts: Sequence[Verdict], *, clusters: Sequence[Hashable]) -> Metric:
    """Share of comparisons asked in both orders in which both named the same winner."""
    both_orders = [
        (float(verdict.consistent), cluster)
        for verdict, cluster in zip(verdicts, clusters, strict=True)
        if isinstance(verdict, Preferred) and verdict.consistent is not None
    ]
    return mean_metric([point for point, _ in both_orders], [cluster for _, cluster in both_orders])


def correlation(
    kind: Correlation,
    values: Sequence[float | None],
    labels: Sequence[float],
    *,
    clusters: Sequence[Hashable],
) -> Metric:
    """Correlation of scores with labels, in [-1, 1]; NaN where either is constant.

    Kendall's tau-b corrects for ties (Kendall 1945), tau-c for a table that is not square (Stuart
    1953).

    Args:
        kind: Coefficient to compute.
        values: Scores of the judge; items without one (None) are left out.
        labels: True values, of the same length.
        clusters: Prompt of every item; the interval resamples prompts.
    """
    answered = [
        (value, label, cluster)
        for value, label, cluster in zip(values, labels, clusters, strict=True)
        if value is not None
    ]
    if len(answered) < 3:
        return Metric(math.nan, (math.nan, math.nan), len(answered))
    scores = np.array([item[0] for item in answered])
    true = np.array([item[1] for item in answered])

    def statistic(indices: Indices) -> float:
        return correlation_coefficient(kind, scores[indices], true[indices])

    interval = bootstrap(statistic, [item[2] for item in answered])
    return Metric(correlation_coefficient(kind, scores, true), interval, len(answered))


def correlation_coefficient(kind: Correlation, x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of two arrays of shape (n,), in [-1, 1]; NaN where either is constant."""
    with extra("bench"):
        from scipy import stats

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    if kind in ("kendall_tau_b", "kendall_tau_c"):
        variant = "b" if kind == "kendall_tau_b" else "c"
        return float(stats.kendalltau(x, y, variant=variant).statistic)
    if kind == "spearman":
        x, y = stats.rankdata(x), stats.rankdata(y)
    return float(np.corrcoef(x, y)[0, 1])


def macro_average(metrics: Sequence[Metric]) -> Metric:
    """Mean of independent figures; the interval adds their half-widths in quadrature."""
    value = sum(one.value for one in metrics) / len(metrics)
    half = math.sqrt(sum(((one.ci95[1] - one.ci95[0]) / 2) ** 2 for one in metrics)) / len(metrics)
    return Metric(value, (value - half, value + half), sum(one.n for one in metrics))


@dataclass(frozen=True)
class Difference:
    """Lead of the second judge over the first on the same items."""

    value: float
    """Mean of the points of the second minus that of the first."""
    ci95: tuple[float, float]
    """Bootstrap over prompts, on the same resamples for both."""
    n: int
    won: int
    """Items in which the second has more points."""
    lost: int
    p_value: float
    """Two-sided sign test over the items that differ; where points are 0 and 1, McNemar's exact
    test (McNemar 1947, doi:10.1007/BF02295996). It treats items as independent."""


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, clusters: Sequence[Hashable]
) -> Difference:
    """Test two judges on the same items.

    >>> difference = paired_difference([1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1], clusters=range(6))
    >>> difference.won, difference.lost, round(difference.p_value, 3)
    (5, 1, 0.219)

    Raises:
        ValueError: The lengths differ, or there is nothing to compare.
    """
    with extra("bench"):
        from scipy import stats

    gains = [b - a for a, b in zip(first, second, strict=True)]
    if not gains:
        raise ValueError("the two judges have no item in common")
    won, lost = sum(one > 0 for one in gains), sum(one < 0 for one in gains)
    p_value = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    interval = mean_interval(gains, clusters)
    return Difference(sum(gains) / len(gains), interval, len(gains), won, lost, float(p_value))
