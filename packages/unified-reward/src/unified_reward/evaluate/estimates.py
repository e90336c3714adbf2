"""Figures of models with their 95 % intervals. Pure functions.

Prompts are the independent units: the values of a model for one prompt are averaged first, every
prompt has the same weight, and every interval is over prompts. A value that is not finite is
missing and left out. A figure that does not exist is None, as is the interval of a single prompt.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unified_reward.bench.metrics import Indices, bootstrap, correlation, wilson
from unified_reward.core.extensions import extra
from unified_reward.core.samples import Example
from unified_reward.evaluate.outputs import Comparison
from unified_reward.io.vote_rows import WIN_SHARE, Vote


PromptValues = Mapping[str, Sequence[float]]
"""Values by id of the prompt."""
Scores = Mapping[str, PromptValues]
"""Scores by model and prompt, NaN for an output without one."""


@dataclass(frozen=True)
class Estimate:
    """A figure over prompts, with its 95 % interval."""

    value: float | None
    """None where it does not exist."""
    ci95: tuple[float, float] | None
    """None where too few prompts tell nothing about it."""
    n: int
    """Number of prompts."""

    def row(self, name: str = "value") -> dict[str, Any]:
        """JSON of the figure, its value under ``name``."""
        return {name: self.value, "ci95": self.ci95 and [*self.ci95], "n": self.n}


def prompt_means(values: PromptValues) -> dict[str, float]:
    """Mean of the finite values of each prompt; prompts without any are left out.

    >>> prompt_means({"p1": [1.0, 2.0], "p2": [], "p3": [math.nan, 4.0]})
    {'p1': 1.5, 'p3': 4.0}
    """
    finite = {prompt: [v for v in each if math.isfinite(v)] for prompt, each in values.items()}
    return {prompt: sum(each) / len(each) for prompt, each in finite.items() if each}


def student_t(degrees: int) -> float:
    """Quantile 0.975 of Student's t distribution (Student 1908, doi:10.1093/biomet/6.1.1)."""
    with extra("bench"):
        from scipy import stats

    return float(stats.t.ppf(0.975, degrees))


Ends = Sequence[float | None]
"""Both ends of a scale; None where it has none."""
NO_ENDS: Ends = (None, None)


def mean_estimate(means: Mapping[str, float], scale: Ends = NO_ENDS) -> Estimate:
    """Mean over prompts, with Student's t interval, see `mean_interval`.

    Args:
        means: Mean value of each prompt.
        scale: Ends of the scale that the values are on.
    """
    n = len(means)
    values = np.array(list(means.values()))
    if n < 2:
        return Estimate(float(values[0]) if n else None, None, n)
    mean = float(values.mean())
    half = student_t(n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return Estimate(mean, mean_interval(mean, half, scale), n)


def mean_interval(mean: float, half: float, scale: Ends = NO_ENDS) -> tuple[float, float]:
    """Interval of a mean within its scale.

    With two ends, ``p = (mean - low) / (high - low)`` has Student's t interval on its logit, by the
    delta method ``half / ((high - low) p (1 - p))``, mapped back (of shares, Newcombe 2001). It
    never leaves the scale, and covers skewed scores of few prompts better than the symmetric
    interval or a bootstrap. Without two ends it is symmetric, cut at the end there is: no mean lies
    beyond.

    Args:
        mean: The mean.
        half: Half width of Student's t interval.
        scale: Ends of the scale.

    >>> [round(end, 2) for end in mean_interval(3, 2.6, (1, 5))], mean_interval(3, 2.6, (1, None))
    ([1.28, 4.72], (1, 5.6))
    """
    low, high = scale
    if low is not None and high is not None and low < high:
        p = (mean - low) / (high - low)
        if 0 < p < 1:
            logit, width = math.log(p / (1 - p)), half / ((high - low) * p * (1 - p))
            ends = (low + (high - low) * _sigmoid(logit + side * width) for side in (-1, 1))
            return min(mean, next(ends)), max(mean, next(ends))  # rounding may pass the mean
    return cut(mean, (mean - half, mean + half), scale)


def cut(value: float, interval: tuple[float, float], limits: Ends) -> tuple[float, float]:
    """Cut an interval at the limits of its figure, which loses no value that the figure can have.

    Args:
        value: The figure; beyond its limits they are none, and nothing is cut.
        interval: Its interval.
        limits: Smallest and largest value of the figure; None where there is none.
    """
    low, high = interval
    least, most = limits
    if least is not None and least <= value:
        low = max(low, least)
    if most is not None and value <= most:
        high = min(high, most)
    return low, high


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def share_interval(share: float, variance: float, n: int) -> tuple[float, float]:
    """Wilson's interval of a share at the effective number of prompts, within [0, 1].

    The effective number is n / d with the design effect ``d = (n^2 variance + 1/2) / (n share
    (1 - share) + 1/2)`` (Kish 1965), the variance of the share against that of n single votes. The
    halves are a win and a loss added to both: as long as few prompts deviate, those that do have
    hardly been seen, and the observed variance is far too small. Wins and losses alone have d = 1,
    so this is Wilson's interval.

    Args:
        share: Estimated share; outside of [0, 1] it counts as the nearest.
        variance: Estimated variance of the share, without correction for degrees of freedom.
        n: Number of prompts, >= 1.

    >>> [round(side, 3) for side in share_interval(0.8, 0.8 * 0.2 / 10, 10)]
    [0.49, 0.943]
    """
    share = min(1.0, max(0.0, share))
    effect = (n * n * variance + 0.5) / (n * share * (1 - share) + 0.5)
    return wilson(share * n / effect, n / effect)


def share_estimate(means: Mapping[str, float]) -> Estimate:
    """Mean over prompts of values in [0, 1], with an interval within [0, 1] (`share_interval`).

    Args:
        means: Mean value of each prompt, such as the share of comparisons won.
    """
    n = len(means)
    values = np.array(list(means.values()))
    if n < 2:
        return Estimate(float(values[0]) if n else None, None, n)
    share = float(values.mean())
    return Estimate(share, share_interval(share, float(values.var()) / n, n), n)


def median_estimate(means: Mapping[str, float]) -> Estimate:
    """Median over prompts; the interval is a bootstrap over prompts."""
    return _resampled(means, lambda values: float(np.median(values)), fewest=1)


def spread_estimate(means: Mapping[str, float]) -> Estimate:
    """Standard deviation of the means of prompts; the interval is a bootstrap over prompts."""
    return _resampled(means, lambda values: float(np.std(values, ddof=1)), fewest=2)


def _resampled(
    means: Mapping[str, float], statistic: Callable[[np.ndarray], float], *, fewest: int
) -> Estimate:
    n, values = len(means), np.array(list(means.values()))

    def resampled(indices: Indices) -> float:
        return statistic(values[indices])

    interval = bootstrap(resampled, range(n)) if n > 1 else None
    return Estimate(statistic(values) if n >= fewest else None, interval, n)


def paired_difference(
    model: Mapping[str, float], baseline: Mapping[str, float], most: float | None = None
) -> Estimate:
    """Mean lead of a model over a baseline for the prompts of both, with Student's t interval.

    Args:
        model: Mean value of each prompt.
        baseline: Likewise, of the other model.
        most: Largest lead there can be, such as the length of the scale; the interval is cut there.

    >>> paired_difference({"p1": 3.0, "p2": 2.0}, {"p2": 1.5, "p3": 9.0}).row("difference")
    {'difference': 0.5, 'ci95': None, 'n': 1}
    """
    lead = mean_estimate({p: model[p] - baseline[p] for p in model if p in baseline})
    if lead.value is None or lead.ci95 is None or most is None:
        return lead
    return replace(lead, ci95=cut(lead.value, lead.ci95, (-most, most)))


def score_comparisons(scores: Scores, pairs: Iterable[tuple[str, str]]) -> list[Comparison]:
    """Comparisons that follow from scores: the higher one wins, equal ones tie.

    The k-th output of a model meets the k-th of the other; places where either has none are left
    out.

    Args:
        scores: Scores of the outputs.
        pairs: Pairs of models to compare.
    """
    return [
        Comparison(prompt, a, b, float(x > y) if x != y else 0.5)
        for a, b in pairs
        for prompt, of_a in scores[a].items()
        for x, y in zip(of_a, scores[b].get(prompt, ()), strict=False)
        if math.isfinite(x) and math.isfinite(y)
    ]


def between(comparisons: Iterable[Comparison], a: str, b: str) -> list[Comparison]:
    """Comparisons of two models, each seen from ``a``."""
    return [
        each if each.a == a else each.mirrored()
        for each in comparisons
        if (each.a, each.b) in ((a, b), (b, a))
    ]


def win_shares(comparisons: Iterable[Comparison], model: str) -> dict[str, list[float]]:
    """Probabilities that a model wins against whichever it met, by prompt."""
    shares: defaultdict[str, list[float]] = defaultdict(list)
    for each in comparisons:
        if model in (each.a, each.b):
            share = each.probability if each.a == model else 1 - each.probability
            shares[each.prompt].append(share)
    return dict(shares)


def shares_against_all(
    comparisons: Iterable[Comparison], models: Iterable[str]
) -> dict[str, dict[str, float]]:
    """Mean probability that a model wins against each of the others, by model and prompt.

    Shares against different opponents cannot be compared, so prompts are left out at which a model
    did not meet all others that were compared at all.
    """
    met: dict[str, dict[str, dict[str, list[float]]]] = {model: {} for model in models}
    for each in comparisons:
        for side in (each, each.mirrored()):
            opponents = met[side.a].setdefault(side.prompt, {})
            opponents.setdefault(side.b, []).append(side.probability)
    n_others = sum(map(bool, met.values())) - 1
    return {
        model: {
            prompt: sum(sum(each) / len(each) for each in opponents.values()) / n_others
            for prompt, opponents in by_prompt.items()
            if len(opponents) == n_others
        }
        for model, by_prompt in met.items()
    }


@dataclass(frozen=True)
class AverageRate:
    """Mean of the win rates of a model against each other model.

    Every rate is over the prompts of its pair, so the mean does not depend on which pairs were
    compared most often.
    """

    value: float | None
    """None if the model did not meet all others that were compared at all."""
    influence: Mapping[str, float]
    """Share of each prompt in the deviation of the value; the variance is the sum of squares."""
    n: int
    """Number of prompts of the pair with the fewest."""
    n_others: int

    @classmethod
    def of(cls, comparisons: Sequence[Comparison], model: str) -> AverageRate:
        """Compute the mean rate of a model."""
        n_others = len({name for each in comparisons for name in (each.a, each.b)} - {model})
        met: dict[str, dict[str, list[float]]] = {}
        for each in comparisons:
            if model in (each.a, each.b):
                side = each if each.a == model else each.mirrored()
                met.setdefault(side.b, {}).setdefault(side.prompt, []).append(side.probability)
        if not met or len(met) < n_others:
            return cls(None, {}, 0, n_others)
        rates = [*map(prompt_means, met.values())]
        means = [sum(shares.values()) / len(shares) for shares in rates]
        influence: defaultdict[str, float] = defaultdict(float)
        for shares, mean in zip(rates, means, strict=True):
            for prompt, share in shares.items():
                influence[prompt] += (share - mean) / (len(shares) * len(rates))
        return cls(sum(means) / n_others, influence, min(map(len, rates)), n_others)

    def estimate(self) -> Estimate:
        """Value with the interval of a share, that of `share_estimate` if all prompts are equal."""
        if self.value is None or self.n < 2:
            return Estimate(self.value, None, len(self.influence))
        variance = sum(each**2 for each in self.influence.values())
        n = min(self.n * self.n_others, len(self.influence))
        interval = share_interval(self.value, variance, n)
        return Estimate(self.value, interval, len(self.influence))

    def minus(self, other: AverageRate) -> Estimate:
        """Difference of two mean rates, paired by prompt, with Student's t interval."""
        if self.value is None or other.value is None:
            return Estimate(None, None, 0)
        prompts, n = {**self.influence, **other.influence}, min(self.n, other.n)
        value = self.value - other.value
        if n < 2:
            return Estimate(value, None, len(prompts))
        squares = (
            (self.influence.get(prompt, 0.0) - other.influence.get(prompt, 0.0)) ** 2
            for prompt in prompts
        )
        half = student_t(n - 1) * math.sqrt(sum(squares) * n / (n - 1))
        interval = cut(value, (value - half, value + half), (-1.0, 1.0))
        return Estimate(value, interval, len(prompts))


def win_rate(comparisons: Iterable[Comparison], a: str, b: str) -> Estimate:
    """Mean probability that ``a`` beats ``b``, a tie counted half."""
    return share_estimate(prompt_means(win_shares(between(comparisons, a, b), a)))


def flip_share(comparisons: Iterable[Comparison]) -> Estimate:
    """Share of the comparisons asked in both orders whose winner changed with the order."""
    flips: defaultdict[str, list[float]] = defaultdict(list)
    for each in comparisons:
        if each.consistent is not None:
            flips[each.prompt].append(float(not each.consistent))
    return share_estimate(prompt_means(flips))


def correlate(x: Scores, y: Scores) -> Estimate:
    """Spearman's correlation of two rewards over the outputs that both scored.

    The interval is a bootstrap over prompts. It does not exist where either reward is constant.
    """
    outputs = [
        (one, other, prompt)
        for model in x
        for prompt, scores in x[model].items()
        for one, other in zip(scores, y.get(model, {}).get(prompt, ()), strict=False)
        if math.isfinite(one) and math.isfinite(other)
    ]
    prompts = [prompt for *_, prompt in outputs]
    n = len(set(prompts))
    first, second = [output[0] for output in outputs], [output[1] for output in outputs]
    metric = correlation("spearman", first, second, clusters=prompts)
    if not math.isfinite(metric.value):
        return Estimate(None, None, n)
    return Estimate(metric.value, metric.ci95 if n > 1 else None, n)


def prompt_key(example: Example) -> str:
    """Prompt of an item: its tag ``prompt_id``, else its text and the sources of its context."""
    if "prompt_id" in example.tags:
        return example.tags["prompt_id"]
    return "\n".join([example.prompt, *(str(medium.source) for medium in example.context)])


def vote_comparisons(votes: Iterable[Vote]) -> list[Comparison]:
    """Comparisons that people decided, one an item: the mean share of a win over its votes.

    Votes on gold items and repeats, and those that cannot tell, are left out.
    """
    items: defaultdict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        if vote.vote in WIN_SHARE and vote.gold is None and not vote.repeats:
            items[vote.id].append(vote)
    comparisons: list[Comparison] = []
    for item in items.values():
        share = sum(WIN_SHARE[str(vote.vote)] for vote in item) / len(item)
        comparisons.append(Comparison(prompt_key(item[0].example), item[0].a, item[0].b, share))
    return comparisons
