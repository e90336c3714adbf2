"""Probabilities of comparisons: one sigmoid, one clamp of log-odds, ties within a margin."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

from unified_reward.core.verdicts import Preferred, Scored


LOG_ODDS_LIMIT = 36.0
"""Log-odds are clamped to ± this, so that no comparison is certain."""


def sigmoid(x: float) -> float:
    """The logistic function, without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def shrink(mean: float, variance: float) -> float:
    """Log-odds of the mean of ``sigmoid`` over a normal distribution, approximately.

    ``mean / sqrt(1 + pi variance / 8)`` (MacKay 1992, doi:10.1162/neco.1992.4.5.720).
    """
    return mean / math.sqrt(1 + math.pi * variance / 8)


def win_probability(difference: float, temperature: float = 1.0) -> float:
    """Probability that the higher of two scores wins, ``sigmoid(difference / temperature)``.

    Args:
        difference: Score of the first minus score of the second.
        temperature: > 0, in units of the scores.

    Returns:
        Probability that the first wins: 1/2 only if the difference is 0, and never 0 or 1.

    Example:
        >>> win_probability(0.0), round(win_probability(1.0), 3)
        (0.5, 0.731)
    """
    share = sigmoid(min(abs(difference / temperature), LOG_ODDS_LIMIT))
    if difference:
        share = max(share, 0.5 + sys.float_info.epsilon)
    return share if difference >= 0 else 1 - share


def compare_values(first: float, second: float, temperature: float = 1.0) -> Preferred:
    """Two scores as a comparison, see `win_probability`; equal scores are a tie.

    Raises:
        ValueError: A score is not a finite number.
    """
    if not (math.isfinite(first) and math.isfinite(second)):
        raise ValueError(f"scores {first} and {second} are not both finite numbers")
    if first == second:
        return Preferred(0.0, 1.0, 0.0)
    share = win_probability(first - second, temperature)
    return Preferred(share, 0.0, 1 - share)


MAX_TIE_MARGIN = 0.5
"""Largest lead at which a tie can be the most probable outcome, see `call_ties`."""


def call_ties(verdict: Preferred, margin: float) -> Preferred:
    """Make a tie the most probable outcome where one candidate leads by no more than a margin.

    The lead is ``d = |p_first - p_second| = |2 p - 1|`` for the probability ``p`` with a tie
    counted half. Probability moves from both sides to the tie alike, so that ``p`` stays: with
    ``p_tie = t`` the leading side has ``(1 - t + d) / 2`` and the other ``(1 - t - d) / 2``. The
    least ``t`` that no side exceeds is ``(1 + d) / 3``; there the leading side equals it, which is
    a tie, and the other side is ``(1 - 2 d) / 3``, which exists for ``d <= 1/2`` alone.

    Args:
        verdict: A comparison; one that is a tie already is returned as it is, and so is one with a
            larger lead. Its verdicts by order stay those of the judge.
        margin: In [0, `MAX_TIE_MARGIN`].

    >>> tie = call_ties(Preferred(0.6, 0.0, 0.4), 0.25)
    >>> tie.winner, round(tie.p_tie, 3), round(tie.probability, 3)
    ('tie', 0.4, 0.6)
    """
    lead = verdict.p_first - verdict.p_second
    if verdict.winner == "tie" or abs(lead) > margin:
        return verdict
    tie = (1 + abs(lead)) / 3
    other = max(0.0, tie - abs(lead))
    first, second = (tie, other) if lead > 0 else (other, tie)
    return replace(verdict, p_first=first, p_tie=tie, p_second=second)


def compare_scored(first: Scored, second: Scored, temperature: float = 1.0) -> Preferred:
    """Two verdicts with overall scores as a comparison; their aspects likewise.

    Args:
        first: Scores of the first candidate.
        second: Scores of the second candidate, with the same aspects.
        temperature: > 0, in units of the scores.
    """
    one_value, other_value = (v.score.value if v.score else 0.0 for v in (first, second))
    overall = compare_values(one_value, other_value, temperature)
    aspects = {
        name: win_probability(score.value - second.aspects[name].value, temperature)
        for name, score in first.aspects.items()
    }
    text = "; ".join(dict.fromkeys(verdict.text for verdict in (first, second) if verdict.text))
    notes = tuple(dict.fromkeys(first.notes + second.notes))
    return Preferred(overall.p_first, overall.p_tie, overall.p_second, aspects, text, notes=notes)
