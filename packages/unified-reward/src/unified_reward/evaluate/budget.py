"""Comparisons where they tell most, for a judge whose calls are limited. Pure functions.

The design is A-optimal (Chaloner and Verdinelli 1995, doi:10.1214/ss/1177009939) for the win rates
of all pairs of models: a comparison adds the Fisher information ``p (1 - p) x xᵀ`` of Bradley-Terry
with ``x = e_a - e_b``, and each next one is of the pair that reduces the sum of the variances of
the win rates most. A clear win rate varies little, so calls go to models that are close. To aim at
neighbours in the ranking alone would leave models that were unlucky early where they are: of the
95 % intervals of differences between equal models 75 % to 90 % were right in simulations.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unified_reward.evaluate.bradley_terry import (
    BradleyTerry,
    fit_bradley_terry,
    laplacian,
    pseudo_inverse,
)
from unified_reward.evaluate.outputs import Comparison, model_pairs


Pair = tuple[str, str]


def question_orders(questions: Mapping[Pair, Sequence[str]], seed: int) -> dict[Pair, list[str]]:
    """Put the questions of each pair in a random order.

    The order knows no answer, so what is asked of a pair is always a random part of all.

    Args:
        questions: Ids of the questions by pair of models.
        seed: Random seed.
    """

    def draw(question: str) -> bytes:
        return hashlib.sha256(f"{seed} {question}".encode()).digest()

    return {pair: sorted(each, key=draw) for pair, each in questions.items()}


def next_questions(
    models: Sequence[str],
    comparisons: Sequence[Comparison],
    left: Mapping[Pair, Sequence[str]],
    n: int,
) -> list[tuple[Pair, str]]:
    """Choose the next batch: pairs without comparisons first, then where it tells most.

    Pairs without comparisons start with a chain through all models. The choice depends on nothing
    but the arguments, so an interrupted run goes on as it would have.

    Args:
        models: All models, in the order given.
        comparisons: Comparisons by now.
        left: Questions by pair that were not asked yet, in the order of `question_orders`.
        n: Most questions to choose, >= 0.

    Returns:
        Pair and id of each question, at most ``n``, fewer if no more are left.
    """
    design = _Design(models, comparisons)
    queues = {frozenset(pair): (pair, iter(each)) for pair, each in left.items()}
    numbers = {frozenset(pair): len(each) for pair, each in left.items()}
    available = np.array([numbers.get(frozenset(pair), 0) for pair in design.pairs])
    counts = design.counts.copy()
    batch: list[tuple[Pair, str]] = []
    while len(batch) < n and available.any():
        unseen = np.flatnonzero((counts == 0) & (available > 0))
        if len(unseen):
            place = int(unseen[0])
        else:
            place = int(np.where(available > 0, design.gains(), -1.0).argmax())
        pair, queue = queues[frozenset(design.pairs[place])]
        batch.append((pair, next(queue)))
        design.add(place)
        counts[place] += 1
        available[place] -= 1
    return batch


def budget_report(models: Sequence[str], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Precision of the comparisons made, and that of as many spread evenly over all pairs.

    Returns:
        ``width``, the widest 95 % interval of the win rate of two models by Bradley-Terry;
        ``uniform_width``, that expected of an even spread; ``uniform_comparisons``, the number of
        comparisons in an even spread with the width reached. None where there is no interval.
    """
    fit = fit_bradley_terry(models, comparisons)
    width = _width(fit)
    if width is None:
        return {"width": None, "uniform_width": None, "uniform_comparisons": None}
    design = _Design(models, comparisons)
    n = len(comparisons)
    even = design.deviation(np.full(len(design.pairs), n / len(design.pairs)))
    ratio = even / design.deviation(design.counts)
    return {
        "width": width,
        "uniform_width": width * ratio,
        "uniform_comparisons": math.ceil(n * ratio**2 - 1e-6),
    }


def _width(fit: BradleyTerry) -> float | None:
    """Widest interval of the win rate of two models; None if any has none."""
    intervals = [fit.difference(a, b).ci95 for a, b in model_pairs([*fit.strengths])]
    if not intervals or None in intervals:
        return None
    return max(_sigmoid(high) - _sigmoid(low) for low, high in filter(None, intervals))


def _sigmoid(value: float) -> float:
    return 0.5 * (1 + math.tanh(value / 2))


class _Design:
    """Variance of the win rates of all pairs, by the number of comparisons of each."""

    def __init__(self, models: Sequence[str], comparisons: Sequence[Comparison]) -> None:
        """Count the comparisons and fit the strengths to them."""
        m, places = len(models), {model: place for place, model in enumerate(models)}
        self.pairs = sorted(
            model_pairs([*models]), key=lambda pair: places[pair[1]] - places[pair[0]]
        )
        """Pairs of models, those next to each other in the order given first."""
        numbers = {frozenset(pair): k for k, pair in enumerate(self.pairs)}
        self.counts = np.zeros(len(self.pairs))
        for each in comparisons:
            self.counts[numbers[frozenset((each.a, each.b))]] += 1
        fit = fit_bradley_terry(models, comparisons)
        values = np.array([fit.strengths[model] for model in models])
        self._sides = np.array([[places[a], places[b]] for a, b in self.pairs], dtype=np.int64)
        self._sides = self._sides.reshape(-1, 2)
        self._x = np.eye(m)[self._sides[:, 0]] - np.eye(m)[self._sides[:, 1]]
        p = 1 / (1 + np.exp(-(self._x @ values)))
        self._weights = p * (1 - p)
        # A win rate changes by p (1 - p) times a change of the difference in strength.
        self._targets = self._x * self._weights[:, None]
        self._inverse = self._covariance(self.counts)

    def gains(self) -> np.ndarray:
        """Reduction of the sum of variances by one more comparison of each pair, shape (pairs,)."""
        spread = self._x @ self._inverse
        squares = ((spread @ self._targets.T) ** 2).sum(axis=1)
        own = (spread * self._x).sum(axis=1)
        return self._weights * squares / (1 + self._weights * own)

    def add(self, place: int) -> None:
        """Count one more comparison of a pair (Sherman and Morrison 1950)."""
        spread, weight = self._inverse @ self._x[place], self._weights[place]
        own = float(spread @ self._x[place])
        self._inverse = self._inverse - np.outer(spread, spread) * weight / (1 + weight * own)

    def deviation(self, counts: np.ndarray) -> float:
        """Largest standard deviation of a win rate, by the number of comparisons of each pair."""
        covariance = self._covariance(counts)
        variances = (self._targets @ covariance * self._targets).sum(axis=1)
        return math.sqrt(float(variances.max()))

    def _covariance(self, counts: np.ndarray) -> np.ndarray:
        """Inverse of the information, to which every model adds a game, spread over the others."""
        m = self._x.shape[1]
        weights = np.zeros((m, m))
        a, b = self._sides.T
        weights[a, b] = weights[b, a] = self._weights * (counts + 1 / max(1, m - 1))
        return pseudo_inverse(laplacian(weights))
