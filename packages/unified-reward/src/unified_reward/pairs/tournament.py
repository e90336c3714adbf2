"""Pairings of a tournament, and the Bradley-Terry strengths of its players. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unified_reward.core.extensions import require


Game = tuple[int, int, float | None]
"""Two players and the probability that the first wins; None if it is unknown."""
_PRIOR_WINS = 0.002


def swiss_round(order: Sequence[int], played: Sequence[Game]) -> list[tuple[int, int]]:
    """Pair players of like points who have not met, highest first; an odd one out rests.

    >>> swiss_round([0, 1, 2, 3], [(0, 1, 0.9), (2, 3, 0.6)])
    [(0, 2), (3, 1)]
    """
    points = dict.fromkeys(order, 0.0)
    for a, b, p_a in played:
        if p_a is not None:
            points[a] += p_a
            points[b] += 1 - p_a
    met = {frozenset((a, b)) for a, b, _ in played}
    left = sorted(order, key=lambda i: -points[i])
    pairs: list[tuple[int, int]] = []
    while left:
        first = left.pop(0)
        rival = next((i for i in left if frozenset((first, i)) not in met), None)
        if rival is not None:
            left.remove(rival)
            pairs.append((first, rival))
    return pairs


def strengths(
    players: Sequence[int], games: Sequence[Game], *, prior: float | np.ndarray = _PRIOR_WINS
) -> dict[int, float]:
    """Bradley-Terry strengths from probabilities to win.

    A game counts as the fraction of a win it is likely to be. Everybody also starts with a faint
    draw against everybody, so that strengths stay finite and a player without games is average.
    Maximum likelihood by choix's I-LSR (Maystre and Grossglauser 2015).

    Args:
        players: Players of the tournament.
        games: Games that were played.
        prior: Wins each way that everybody starts with against everybody else, > 0; one number, or
            one a pair of players, shape (players, players), symmetric.

    Returns:
        Strength by player, in log-odds around 0, rounded to 6 decimals.

    >>> result = strengths([0, 1], [(0, 1, 0.75)])
    >>> round(result[0] - result[1], 1)
    1.1
    """
    place = {player: k for k, player in enumerate(players)}
    wins = prior * (1 - np.eye(len(players)))
    for a, b, p_a in games:
        if p_a is not None:
            wins[place[a], place[b]] += p_a
            wins[place[b], place[a]] += 1 - p_a
    fitted = require("bench", "choix").ilsr_pairwise_dense(wins, max_iter=10_000)
    # Equal strengths come out equal only up to rounding; -0.0 + 0.0 is 0.0.
    return {
        player: round(float(value), 6) + 0.0 for player, value in zip(players, fitted, strict=True)
    }
