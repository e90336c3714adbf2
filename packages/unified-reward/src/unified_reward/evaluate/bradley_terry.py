"""Bradley-Terry strengths of models with intervals that are robust to clusters. Pure functions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unified_reward.evaluate.estimates import Estimate, student_t
from unified_reward.evaluate.outputs import Comparison
from unified_reward.pairs.tournament import strengths


@dataclass(frozen=True)
class BradleyTerry:
    """Strengths of models and their uncertainty."""

    strengths: dict[str, float]
    """Log-odds by model, in the order given, around a mean of 0: ``a`` beats ``b`` with probability
    ``sigmoid(strengths[a] - strengths[b])``."""
    covariance: np.ndarray
    """Covariance of the strengths, shape (models, models)."""
    n: int
    """Number of prompts."""
    groups: list[list[str]]
    """Models that comparisons connect, directly or through others. Nothing is known about models
    of different groups, so with more than one no strength has an interval."""

    def difference(self, a: str, b: str) -> Estimate:
        """Lead of ``a`` over ``b`` in log-odds."""
        models = list(self.strengths)
        value = self.strengths[a] - self.strengths[b]
        if not any(a in group and b in group for group in self.groups):
            return Estimate(value, None, self.n)
        contrast = np.zeros(len(models))
        contrast[models.index(a)] += 1
        contrast[models.index(b)] -= 1
        return self._estimate(value, contrast)

    def ranking(self) -> list[str]:
        """Models by falling strength, equal ones in the order given."""
        return sorted(self.strengths, key=lambda model: -self.strengths[model])

    def rank(self, model: str) -> tuple[int, int]:
        """Best and worst rank of a model, from 1.

        Every model whose lead over it is certain, by the interval of the difference, ranks above
        it; every one whose deficit is certain ranks below it.
        """
        others = [other for other in self.strengths if other != model]
        leads = [ci95 for other in others if (ci95 := self.difference(model, other).ci95)]
        above, below = sum(high < 0 for _, high in leads), sum(low > 0 for low, _ in leads)
        return 1 + above, len(self.strengths) - below

    def rows(self) -> dict[str, dict[str, Any]]:
        """JSON of the strength, its interval and the ranks of every model."""
        rows: dict[str, dict[str, Any]] = {}
        for place, (model, value) in enumerate(self.strengths.items()):
            ci95 = None
            if len(self.groups) == 1:
                ci95 = self._estimate(value, np.eye(len(self.strengths))[place]).ci95
            ranks = [*self.rank(model)]
            rows[model] = {"strength": value, "ci95": ci95 and [*ci95], "rank": ranks}
        return rows

    def _estimate(self, value: float, contrast: np.ndarray) -> Estimate:
        if self.n < 2:
            return Estimate(value, None, self.n)
        variance = float(contrast @ self.covariance @ contrast)
        half = student_t(self.n - 1) * math.sqrt(max(0.0, variance))
        return Estimate(value, (value - half, value + half), self.n)


@dataclass(frozen=True)
class Games:
    """Mean outcome of every pair of models for every prompt, G of them."""

    sides: np.ndarray
    """Places of both models, the lower first, shape (G, 2)."""
    outcomes: np.ndarray
    """Mean probability that the first one wins, shape (G,)."""
    prompts: np.ndarray
    """Number of the prompt, shape (G,)."""


def fit_bradley_terry(models: Sequence[str], comparisons: Iterable[Comparison]) -> BradleyTerry:
    """Fit the strengths of models to comparisons, whose probabilities count as shares of a win.

    Bradley and Terry 1952, as in Chatbot Arena (Chiang et al. 2024, arXiv:2403.04132).
    Comparisons of two models for one prompt are averaged to one game, with outcome ``y``, the
    difference ``x = e_a - e_b`` and the fitted ``p = sigmoid(x · strengths)``. The covariance is
    the sandwich of White 1982, clustered by prompt (Liang and Zeger 1986), with C prompts::

        H⁺ M H⁺,  H = Σ_games p (1 - p) x xᵀ,
        M = C / (C - 1) Σ_prompts s sᵀ,  s = Σ_games of the prompt (y - p) x

    Every model also starts with half a win and half a loss, spread over the others, so that one
    that always wins stays finite. Between two this is Haldane's and Anscombe's correction of
    log-odds (1956). It is scaled by the dispersion of the pair (`dispersions`): outcomes that vary
    little need none. These games are clusters of their own in M, and give a model that always wins
    the wide interval of the corrected log-odds.

    Args:
        models: All models to rank.
        comparisons: Comparisons of these models alone.

    Raises:
        KeyError: A comparison names another model.
    """
    games = make_games(models, comparisons)
    (a, b), m = games.sides.T, len(models)
    prior = dispersions(games, m) / (2 * max(1, m - 1))
    results = list(zip(a.tolist(), b.tolist(), games.outcomes.tolist(), strict=True))
    fitted = strengths(range(m), results, prior=prior) if m > 1 else dict.fromkeys(range(m), 0.0)
    values = np.array([fitted[k] for k in range(m)])

    n = len(set(games.prompts.tolist()))
    p = 1 / (1 + np.exp(values[b] - values[a]))
    scores = np.zeros((n, m))
    np.add.at(scores, (games.prompts, a), games.outcomes - p)
    np.add.at(scores, (games.prompts, b), p - games.outcomes)
    counts = 2 * prior
    np.add.at(counts, (a, b), 1)
    np.add.at(counts, (b, a), 1)
    expected = 1 / (1 + np.exp(values[None] - values[:, None]))
    bread = pseudo_inverse(laplacian(counts * expected * (1 - expected)))
    surprise = laplacian(prior * (expected**2 + (1 - expected) ** 2))
    meat = scores.T @ scores * n / max(1, n - 1) + surprise
    by_model = dict(zip(models, values.tolist(), strict=True))
    return BradleyTerry(by_model, bread @ meat @ bread, n, _groups(models, games))


def laplacian(weights: np.ndarray) -> np.ndarray:
    """Sum of ``weight x xᵀ`` over all pairs, with ``x = e_a - e_b``.

    Args:
        weights: Weight of each pair, shape (models, models), symmetric; its diagonal is ignored.
    """
    weights = weights * (1 - np.eye(len(weights)))
    return np.diag(weights.sum(axis=1)) - weights


def pseudo_inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of the `laplacian` of a connected graph on the vectors whose sum is 0."""
    mean = np.full(matrix.shape, 1 / max(1, len(matrix)))
    return np.linalg.inv(matrix + mean) - mean


def make_games(models: Sequence[str], comparisons: Iterable[Comparison]) -> Games:
    """Average the comparisons of each pair of models for each prompt."""
    places = {model: place for place, model in enumerate(models)}
    cells: defaultdict[tuple[str, int, int], list[float]] = defaultdict(list)
    for each in comparisons:
        ordered = each if places[each.a] < places[each.b] else each.mirrored()
        cells[each.prompt, places[ordered.a], places[ordered.b]].append(ordered.probability)
    prompts = {prompt: k for k, prompt in enumerate(dict.fromkeys(cell[0] for cell in cells))}
    return Games(
        np.array([cell[1:] for cell in cells], dtype=np.int64).reshape(-1, 2),
        np.array([sum(shares) / len(shares) for shares in cells.values()]),
        np.array([prompts[cell[0]] for cell in cells], dtype=np.int64),
    )


def dispersions(games: Games, n_models: int) -> np.ndarray:
    """Variance of the outcomes of each pair against that of wins and losses, in (0, 1].

    A win and a loss are added as in `estimates.share_interval`. A pair without games has the ratio
    of all others together.

    Returns:
        Ratios, shape (models, models), symmetric.
    """
    n, total, squares = (np.zeros((n_models, n_models)) for _ in range(3))
    a, b = games.sides.T
    np.add.at(n, (a, b), 1)
    np.add.at(total, (a, b), games.outcomes)
    np.add.at(squares, (a, b), games.outcomes**2)
    means = total / np.maximum(n, 1)
    observed, binary = squares - total * means, total * (1 - means)
    ratios = (observed + 0.5) / (binary + 0.5)
    pooled = (observed.sum() + 0.5) / (binary.sum() + 0.5)
    return np.where(n + n.T > 0, np.minimum(ratios, ratios.T), pooled)


def _groups(models: Sequence[str], games: Games) -> list[list[str]]:
    group = list(range(len(models)))
    for a, b in {(a, b) for a, b in games.sides.tolist()}:
        group = [group[a] if each == group[b] else each for each in group]
    members: defaultdict[int, list[str]] = defaultdict(list)
    for model, each in zip(models, group, strict=True):
        members[each].append(model)
    return list(members.values())
