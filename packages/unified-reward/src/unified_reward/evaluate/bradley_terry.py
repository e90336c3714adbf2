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
    dispersion: float
    """Variance of the outcomes as a share of that of wins and losses, in (0, 1]."""
    n: int
    """Number of prompts."""
    groups: list[list[str]]
    """Models that comparisons connect, directly or through others. Of models of different groups
    nothing is known, so more than one group leaves strengths without intervals."""

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

        Models rank above it whose difference has an interval above 0, and below it likewise;
        between them every rank is possible.
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

    Bradley and Terry 1952, as in Chatbot Arena (Chiang et al. 2024, arXiv:2403.04132, section 4).
    Comparisons of two models for one prompt are averaged to one game, with outcome ``y``, the
    difference ``x = e_a - e_b`` and the fitted ``p = sigmoid(x · strengths)``. The covariance is
    the sandwich of White 1982, clustered by prompt (Liang and Zeger 1986), with C prompts::

        H⁺ M H⁺,  H = Σ_games p (1 - p) x xᵀ,  M = C / (C - 1) Σ_prompts s sᵀ,  s = Σ_games (y - p) x

    Every model also starts with half a win and half a loss, spread over the others, so that one
    that always wins stays finite. In a pair this is Haldane's and Anscombe's correction of
    log-odds (1956). It is scaled by the dispersion of the outcomes (`dispersion`): outcomes that
    vary little need no correction. These games are clusters of their own in M, and give the one
    that always wins the wide interval of the corrected log-odds.

    Args:
        models: All models to rank.
        comparisons: Comparisons of these models alone.

    Raises:
        KeyError: A comparison names another model.
    """
    games = make_games(models, comparisons)
    n_models, spread = len(models), dispersion(games)
    prior = spread / (2 * max(1, n_models - 1))
    results = [
        (int(a), int(b), float(y)) for (a, b), y in zip(games.sides, games.outcomes, strict=True)
    ]
    fitted = strengths(range(n_models), results, prior=prior) if n_models > 1 else {0: 0.0}
    values = np.array([fitted[k] for k in range(n_models)])
    x = np.eye(n_models)[games.sides[:, 0]] - np.eye(n_models)[games.sides[:, 1]]
    p = 1 / (1 + np.exp(-(x @ values)))
    information = (x * (p * (1 - p))[:, None]).T @ x
    n = len(set(games.prompts.tolist()))
    scores = np.zeros((n, n_models))
    np.add.at(scores, games.prompts, x * (games.outcomes - p)[:, None])
    meat = scores.T @ scores * n / max(1, n - 1)
    for a in range(n_models):
        for b in range(a):
            difference = np.eye(n_models)[a] - np.eye(n_models)[b]
            share = 1 / (1 + math.exp(values[b] - values[a]))
            outer = prior * np.outer(difference, difference)
            information += 2 * share * (1 - share) * outer
            meat += (share**2 + (1 - share) ** 2) * outer
    bread = np.linalg.pinv(information, hermitian=True)
    covariance = bread @ meat @ bread
    by_model = dict(zip(models, map(float, values), strict=True))
    return BradleyTerry(by_model, covariance, spread, n, _groups(models, games))


def make_games(models: Sequence[str], comparisons: Iterable[Comparison]) -> Games:
    """Average the comparisons of each pair of models for each prompt."""
    places = {model: place for place, model in enumerate(models)}
    cells: defaultdict[tuple[str, int, int], list[float]] = defaultdict(list)
    for each in comparisons:
        a, b, share = places[each.a], places[each.b], each.probability
        cells[(each.prompt, a, b) if a < b else (each.prompt, b, a)].append(
            share if a < b else 1 - share
        )
    prompts = {prompt: k for k, prompt in enumerate(dict.fromkeys(cell[0] for cell in cells))}
    return Games(
        np.array([cell[1:] for cell in cells], dtype=np.int64).reshape(-1, 2),
        np.array([sum(shares) / len(shares) for shares in cells.values()]),
        np.array([prompts[cell[0]] for cell in cells], dtype=np.int64),
    )


def dispersion(games: Games) -> float:
    """Variance of outcomes within pairs of models against that of wins and losses, in (0, 1].

    Pooled over the pairs, a win and a loss added as in `estimates.share_interval`. Without any
    game it is 1.
    """
    outcomes: defaultdict[tuple[int, ...], list[float]] = defaultdict(list)
    for sides, outcome in zip(games.sides.tolist(), games.outcomes.tolist(), strict=True):
        outcomes[tuple(sides)].append(outcome)
    observed = binary = 0.5
    for each in outcomes.values():
        mean = sum(each) / len(each)
        observed += sum((outcome - mean) ** 2 for outcome in each)
        binary += len(each) * mean * (1 - mean)
    return observed / binary


def _groups(models: Sequence[str], games: Games) -> list[list[str]]:
    group = list(range(len(models)))
    for a, b in {(a, b) for a, b in games.sides.tolist()}:
        group = [group[a] if each == group[b] else each for each in group]
    members: defaultdict[int, list[str]] = defaultdict(list)
    for model, each in zip(models, group, strict=True):
        members[each].append(model)
    return list(members.values())
