"""Rankings from verdicts on single candidates, or on pairs of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from unified_reward.core.verdicts import Preferred, Ranking, Scored, Unparsed, Verdict


def pairs_of(n: int) -> list[tuple[int, int]]:
    """Index pairs (i, j), i < j, of n candidates, row by row.

    >>> pairs_of(3)
    [(0, 1), (0, 2), (1, 2)]
    """
    return list(combinations(range(n), 2))


def rank_by_score(verdicts: Sequence[Verdict]) -> Ranking:
    """Rank candidates by their scores.

    Args:
        verdicts: One for each candidate. A verdict of aspects alone that lacks an aspect of
            another's is unparsed; otherwise the mean of its aspects on [0, 1] is its score.
    """
    verdicts = _comparable(verdicts)
    return _ranking([overall_value(verdict) for verdict in verdicts], verdicts)


def rank_by_pairs(n: int, verdicts: Sequence[Verdict]) -> Ranking:
    """Rank candidates by their mean probability to win.

    Args:
        n: Number of candidates; a single one is first, without a score.
        verdicts: One for each of `pairs_of`; pairs without a comparison are left out of the means.
    """
    if n == 1:
        return Ranking((0,), (None,), ())
    wins: list[list[float]] = [[] for _ in range(n)]
    for (i, j), verdict in zip(pairs_of(n), verdicts, strict=True):
        if isinstance(verdict, Preferred):
            wins[i].append(verdict.probability)
            wins[j].append(1 - verdict.probability)
    return _ranking([sum(shares) / len(shares) if shares else None for shares in wins], verdicts)


def overall_value(verdict: Verdict) -> float | None:
    """The overall score; of aspects alone the mean of those on [0, 1]; else None."""
    if not isinstance(verdict, Scored):
        return None
    if verdict.score is not None:
        return verdict.score.value
    shares = [score.normalized for score in verdict.aspects.values()]
    closed = [share for share in shares if share is not None]
    return sum(closed) / len(closed) if closed else None


def _ranking(scores: Sequence[float | None], verdicts: Sequence[Verdict]) -> Ranking:
    answered = [(-score, i) for i, score in enumerate(scores) if score is not None]
    return Ranking(tuple(i for _, i in sorted(answered)), tuple(scores), tuple(verdicts))


def _comparable(verdicts: Sequence[Verdict]) -> list[Verdict]:
    alone = [one for one in verdicts if isinstance(one, Scored) and one.score is None]
    names = dict.fromkeys(name for one in alone for name in one.aspects)
    comparable: list[Verdict] = []
    for verdict in verdicts:
        if isinstance(verdict, Scored) and verdict.score is None:
            lacking = [name for name in names if name not in verdict.aspects]
            reason = f"no score for {', '.join(lacking)} in the answer"
            comparable.append(Unparsed(reason, verdict.text) if lacking else verdict)
        else:
            comparable.append(verdict)
    return comparable
