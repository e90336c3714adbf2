"""Scores and comparisons of candidates combined: Bradley-Terry with normal priors. Pure functions.

Knows neither judges nor which question comes next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unified_reward.core.verdicts import Score
from unified_reward.pairs.tournament import Game


Floats = NDArray[np.float64]
SLOPE = 2.0
"""Log-odds of a comparison for a difference of one deviation of the scores of a prompt. Of judges
trained on the microworld it was 0.1 (hardly trained) to 2.1 (shipped)."""
NOISE = 0.5
"""Noise of a score that says nothing of its own, as a share of the deviation of the scores; as
much evidence as `_NOISE_WEIGHT` repeated readings."""
_NOISE_WEIGHT = 4
_LEAST_VARIANCE = 1e-6
_STEPS = 50


class Beliefs(NamedTuple):
    """Normal distribution of the worth of candidates."""

    mean: Floats
    """In units of the judge's score, shape (n,)."""
    covariance: Floats
    """In units of ``unit ** 2``, shape (n, n)."""
    unit: float
    """Difference of worth, in units of the score, for log-odds of `SLOPE` of a comparison."""

    def p_above(self, a: int, b: int) -> float:
        """Probability that candidate ``a`` is worth more than candidate ``b``."""
        c = self.covariance
        deviation = math.sqrt(max(float(c[a, a] + c[b, b] - 2 * c[a, b]), 0.0))
        gap = (float(self.mean[a]) - float(self.mean[b])) / self.unit
        if not deviation:
            return 0.5 + 0.5 * (gap > 0) - 0.5 * (gap < 0)
        return 0.5 * math.erfc(-gap / deviation / math.sqrt(2))


class Standing(NamedTuple):
    """Candidates with the beliefs about their worth, at least two."""

    players: Sequence[int]
    """Indices of the candidates, in the order of the beliefs."""
    beliefs: Beliefs

    @property
    def worth(self) -> dict[int, float]:
        """Mean of the belief about each candidate, in units of the judge's score."""
        return dict(zip(self.players, self.beliefs.mean.tolist(), strict=True))

    @property
    def ends(self) -> tuple[int, int]:
        """Best and worst candidate, two even if all are equal."""
        worth = self.worth
        return max(worth, key=worth.__getitem__), min(reversed(worth), key=worth.__getitem__)

    def doubts(self, confidence: float) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """The best with each rival, and the worst with each, the strongest rivals first.

        A rival is a candidate that is below the best, or above the worst, with a probability
        lower than ``confidence``.
        """
        best, worst = self.ends
        above = {i: self._p_above(best, i) for i in self.players if i != best}
        below = {i: self._p_above(i, worst) for i in self.players if i != worst}
        return (
            [(best, i) for i in sorted(above, key=above.__getitem__) if above[i] < confidence],
            [(worst, i) for i in sorted(below, key=below.__getitem__) if below[i] < confidence],
        )

    def _p_above(self, a: int, b: int) -> float:
        return self.beliefs.p_above(self.players.index(a), self.players.index(b))


def beliefs(readings: Sequence[Sequence[Score]], games: Sequence[Game]) -> Beliefs:
    """Combine the scores of candidates with comparisons of them.

    A candidate's worth has a normal prior around the mean of its readings. Its variance is that of
    the judge's own distribution where every reading has one, which repeating does not narrow; else
    that of one reading, pooled over the candidates, over the number of readings. A game is
    a Bernoulli outcome with log-odds ``slope * (worth_a - worth_b)``, counted as the fraction of a
    win it is likely to be. The posterior is the normal distribution at its mode (Laplace).

    Args:
        readings: Scores of each candidate, at least one.
        games: Comparisons by index; those without a probability are left out.

    Returns:
        Without games the mean scores themselves. The slope is `SLOPE` over the deviation of the
        mean scores or their noise, whichever is larger.

    >>> from unified_reward.core.verdicts import Scale
    >>> three, four = (Score(value, Scale(1, 5), sigma=0.5) for value in (3.0, 4.0))
    >>> before = beliefs([[three], [four]], [])
    >>> after = beliefs([[three], [four]], [(0, 1, 0.9)])
    >>> round(before.p_above(1, 0), 2), round(after.p_above(1, 0), 2)
    (0.92, 0.56)
    """
    means, variances, unit = _priors(readings)
    known = [(a, b, p) for a, b, p in games if p is not None]
    place, covariance = _posterior(means, variances, known)
    scores = np.array([_mean(each) for each in readings])
    return Beliefs(scores + (place - means).round(6) * unit, covariance, unit)


def _mean(readings: Sequence[Score]) -> float:
    return sum(score.value for score in readings) / len(readings)


def _priors(readings: Sequence[Sequence[Score]]) -> tuple[Floats, Floats, float]:
    """Means and variances in a unit in which the slope is `SLOPE`, and that unit."""
    scores = [score for each in readings for score in each]
    scale = max(max(abs(score.value), score.sigma or 0.0) for score in scores) or 1.0
    values = [np.array([score.value / scale for score in each]) for each in readings]
    means = np.array([each.mean() for each in values])
    spread = float(means.std())
    squares = sum(float(((each - each.mean()) ** 2).sum()) for each in values)
    repeats = sum(len(each) - 1 for each in values)
    pooled = (_NOISE_WEIGHT * (NOISE * spread) ** 2 + squares) / (_NOISE_WEIGHT + repeats)
    variances = np.array([_own_variance(each, scale) or pooled / len(each) for each in readings])
    unit = max(spread, math.sqrt(float(variances.mean()))) or 1.0
    return means / unit, np.maximum(variances / unit**2, _LEAST_VARIANCE), unit * scale


def _own_variance(readings: Sequence[Score], scale: float) -> float | None:
    """Mean variance of the judge's own distributions; None if one has no width or is missing."""
    sigmas = [score.sigma for score in readings if score.sigma]
    if len(sigmas) < len(readings):
        return None
    return sum((sigma / scale) ** 2 for sigma in sigmas) / len(sigmas)


def _posterior(
    means: Floats, variances: Floats, games: Sequence[tuple[int, int, float]]
) -> tuple[Floats, Floats]:
    """Mode and covariance by Newton's method; steps are bounded, so that none overshoots."""
    n, x = len(means), means.copy()
    wins = np.zeros((n, n))
    for a, b, p in games:
        wins[a, b] += p
        wins[b, a] += 1 - p
    played = wins + wins.T
    precision = np.diag(1 / variances)
    for _ in range(_STEPS):
        expected = 0.5 * (1 + np.tanh(SLOPE / 2 * (x[:, None] - x[None, :])))
        gradient = (means - x) / variances + SLOPE * (wins - played * expected).sum(axis=1)
        weights = SLOPE**2 * played * expected * (1 - expected)
        hessian = precision + np.diag(weights.sum(axis=1)) - weights
        step = np.clip(np.linalg.solve(hessian, gradient), -1.0, 1.0)
        x = x + step
        if np.abs(step).max() < 1e-9:
            break
    return x, np.linalg.inv(hessian).astype(np.float64)
