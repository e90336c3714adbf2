"""Who meets whom in a tournament, and how strong its players are. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unified_reward.core.extensions import extra


Game = tuple[int, int, float | None]
"""Two players and the probability that the first wins; None where nobody knows."""
_DRAWN = 0.002
"""Wins each way that everybody has against everybody."""


def swiss_round(order: Sequence[int], played: Sequence[Game]) -> list[tuple[int, int]]:
    """Neighbours by points so far that have not met, the highest first; an odd one rests.

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


def strengths(items: Sequence[int], games: Sequence[Game]) -> dict[int, float]:
    """Bradley-Terry strengths, in log-odds around 0, from probabilities to win.

    A game counts as the fraction of a win it is likely to be. Everybody also has a faint draw with
    everybody, so that who never loses stays finite and who did not play stands in the middle.
    Maximum likelihood by choix's I-LSR (Maystre and Grossglauser 2015).

    Args:
        items: Who plays.
        games: What was played.

    >>> found = strengths([0, 1], [(0, 1, 0.75)])
    >>> round(found[0] - found[1], 1)
    1.1
    """
    with extra("bench"):
        import choix

    place = {item: k for k, item in enumerate(items)}
    wins = _DRAWN * (1 - np.eye(len(items)))
    for a, b, p_a in games:
        if p_a is not None:
            wins[place[a], place[b]] += p_a
            wins[place[b], place[a]] += 1 - p_a
    told = choix.ilsr_pairwise_dense(wins, max_iter=10_000)
    # Equal strengths come out equal only up to rounding; -0.0 + 0.0 is 0.0.
    return {item: round(float(one), 6) + 0.0 for item, one in zip(items, told, strict=True)}
