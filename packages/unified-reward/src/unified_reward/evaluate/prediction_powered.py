"""Win rate among people from few votes and many verdicts of a judge. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unified_reward.evaluate.estimates import Estimate, share_estimate, share_interval


@dataclass(frozen=True)
class PredictionPowered:
    """Win rate among people, by their votes and by a judge."""

    estimate: Estimate
    """By both; ``n`` counts the prompts with votes and a verdict. It is that of the votes alone
    where fewer than two prompts have both, or fewer than two a verdict alone."""
    standard_error: float | None
    """Closed form of the paper; None where the estimate is that of the votes alone."""
    weight: float
    """Weight of the judge, from 0 (ignored) to 1 (prediction-powered inference of 2023)."""
    votes_alone: Estimate
    judge_alone: Estimate
    n_unjudged: int
    """Prompts with votes and no verdict; they are in ``votes_alone`` only."""

    def row(self) -> dict[str, Any]:
        """JSON of the figures."""
        return {
            "value": self.estimate.value,
            "ci95": self.estimate.row()["ci95"],
            "n_votes": self.votes_alone.n,
            "n_judged": self.judge_alone.n,
            "votes_alone": self.votes_alone.row(),
            "judge_alone": self.judge_alone.row(),
            "weight": self.weight,
        }


def prediction_powered(
    votes: Mapping[str, float], judge: Mapping[str, float], weight: float | None = None
) -> PredictionPowered:
    """Correct a judge's win rate by votes (prediction-powered inference).

    Angelopoulos et al. 2023, arXiv:2301.09633, for a mean. With ``y`` the votes and ``f`` the
    verdicts of n prompts, ``f'`` the verdicts of N others and the weight w::

        estimate = w mean(f') + mean(y - w f)
        variance = w² var(f') / N + var(y - w f) / n

    The weight 1 is the paper's; by default it is the one of least variance (PPI++, Angelopoulos et
    al. 2023, arXiv:2311.01453), within [0, 1]: ``cov(y, f) / ((1 + n / N) var(f))``. The prompts
    with votes must be a random part of all. The interval is `share_interval` in place of the normal
    one of the papers, which leaves [0, 1] and has no width where judge and people have not
    disagreed yet.

    Args:
        votes: Mean share of a win that people give the model, by prompt, in [0, 1].
        judge: Likewise by the judge, for prompts with votes and others.
        weight: Weight of the judge, in [0, 1]; None for that of least variance.
    """
    voted = [prompt for prompt in votes if prompt in judge]
    y, f = (np.array([source[prompt] for prompt in voted]) for source in (votes, judge))
    others = np.array([value for prompt, value in judge.items() if prompt not in votes])
    alone, judged = share_estimate(votes), share_estimate(judge)
    n, n_unjudged = len(y), len(votes) - len(y)
    if n < 2 or len(others) < 2:
        return PredictionPowered(alone, None, 0.0, alone, judged, n_unjudged)
    if weight is None:
        weight = _best_weight(y, f, others)
    value = weight * float(others.mean()) + float((y - weight * f).mean())
    rectified = (y - weight * f).var(ddof=1) / n
    variance = float(weight**2 * others.var(ddof=1) / len(others) + rectified)
    estimate = Estimate(
        min(1.0, max(0.0, value)), share_interval(value, variance * (n - 1) / n, n), n
    )
    return PredictionPowered(estimate, math.sqrt(variance), weight, alone, judged, n_unjudged)


def _best_weight(y: np.ndarray, f: np.ndarray, others: np.ndarray) -> float:
    variance = float(np.concatenate([f, others]).var(ddof=1))
    if variance == 0:
        return 0.0
    covariance = float(np.cov(y, f)[0, 1])
    return min(1.0, max(0.0, covariance / ((1 + len(y) / len(others)) * variance)))
