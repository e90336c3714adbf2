"""Pair strategies: functions from the answers so far to the next questions about a prompt.

A strategy is a plain function of a `CandidatePool`. It returns the next `Questions`, or the
`Outcome` when it needs no more answers. Knows neither judges nor files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations
from typing import Literal, NamedTuple

from unified_reward.core.errors import ConfigError
from unified_reward.core.verdicts import Failed, Preferred, Unparsed, Verdict
from unified_reward.pairs.tournament import strengths, swiss_round


Status = Literal["kept", "dropped", "failed"]


class Strategy(StrEnum):
    """Rule by which the chosen and the rejected candidate are found."""

    RANDOM = "random"
    """Two random candidates; asks the judge nothing."""
    SCORE = "score"
    """Highest-scoring and lowest-scoring candidate."""
    RANK = "rank"
    """Winner and loser of the most decided of n/2 comparisons of disjoint random pairs."""
    RANK_AND_SIFT = "rank+sift"
    """Highest-scoring winner and lowest-scoring loser of those comparisons (arXiv:2503.05236,
    section III-B)."""
    TOURNAMENT = "tournament"
    """Strongest and weakest candidate by Bradley-Terry, of all comparisons or of Swiss rounds."""


@dataclass(frozen=True)
class PairOptions:
    """Options of making pairs."""

    strategy: Strategy = Strategy.RANK_AND_SIFT
    margin: float = 0.0
    """The chosen candidate must be above the rejected one by more than this, >= 0: in units of the
    judge's score, for a tournament in log-odds."""
    min_quality: float | None = None
    """Lowest score of a chosen candidate, in units of the judge's score."""
    orders: Literal[1, 2] = 2
    """Orders in which a comparison is asked."""
    readings: int = 1
    """Times a score is asked and averaged, >= 1; more than one helps only if the judge samples."""
    rounds: int = 0
    """Swiss rounds of a tournament; 0 compares all with all."""
    seed: int = 0
    """Random seed of the order of the candidates."""

    def __post_init__(self) -> None:
        scored = (Strategy.SCORE, Strategy.RANK_AND_SIFT)
        if self.readings < 1 or self.rounds < 0 or not 0 <= self.margin < math.inf:
            raise ConfigError(
                "readings must be >= 1, rounds and margin >= 0 and finite, not "
                f"{self.readings}, {self.rounds} and {self.margin:g}"
            )
        if self.min_quality is not None and not math.isfinite(self.min_quality):
            raise ConfigError(f"min_quality is a finite number, not {self.min_quality}")
        if self.min_quality is not None and self.strategy not in scored:
            raise ConfigError(
                f"min_quality needs scores, which strategy {self.strategy} does not ask for; "
                f"{' and '.join(scored)} do"
            )
        if self.margin and self.strategy not in (*scored, Strategy.TOURNAMENT):
            raise ConfigError(f"a margin needs scores; strategy {self.strategy} asks for none")
        if self.readings > 1 and self.strategy not in scored:
            raise ConfigError(
                f"readings are of scores, which strategy {self.strategy} does not ask for; "
                f"{' and '.join(scored)} do"
            )
        if self.rounds and self.strategy is not Strategy.TOURNAMENT:
            raise ConfigError(
                f"rounds are those of a tournament; strategy {self.strategy} has none"
            )


class Comparison(NamedTuple):
    """A comparison of two candidates, by index."""

    a: int
    b: int
    verdict: Verdict

    @property
    def p_a(self) -> float | None:
        """Probability that a is better, a tie counted half; None without a readable verdict."""
        return self.verdict.probability if isinstance(self.verdict, Preferred) else None

    @property
    def decision(self) -> tuple[int, int] | None:
        """Winner and loser; None for a tie or without a readable verdict."""
        if not isinstance(self.verdict, Preferred) or self.verdict.winner == "tie":
            return None
        return (self.a, self.b) if self.verdict.winner == "first" else (self.b, self.a)


class Questions(NamedTuple):
    """Next questions about the candidates of a prompt, by index."""

    compare: Sequence[tuple[int, int]] = ()
    score: Sequence[int] = ()


class Outcome(NamedTuple):
    """Result of a strategy: a pair of candidates, by index, or the reason why there is none."""

    status: Status
    """``dropped``: the judge sees no pair; ``failed``: it could not be asked or read."""
    reason: str | None = None
    chosen: int | None = None
    rejected: int | None = None
    scores: Mapping[int, float] = {}
    """Scores by candidate that the choice was made by; strengths for a tournament."""


@dataclass
class CandidatePool:
    """Answers so far about the candidates of one prompt."""

    options: PairOptions
    order: Sequence[int]
    """Distinct candidates that can be judged, in random order; at least two."""
    comparisons: list[Comparison] = field(default_factory=list[Comparison])
    scores: dict[int, float] = field(default_factory=dict[int, float])
    reasons: dict[int, str] = field(default_factory=dict[int, str])
    """Reason by candidate for having no score."""
    turns: int = 0
    """Times the judge was asked so far."""


def random(pool: CandidatePool) -> Questions | Outcome:
    """Two random candidates."""
    chosen, rejected, *_ = pool.order
    return Outcome("kept", None, chosen, rejected)


def score(pool: CandidatePool) -> Questions | Outcome:
    """Highest-scoring and lowest-scoring candidate."""
    if unscored := _unscored(pool, pool.order):
        return Questions(score=unscored)
    return _extremes(pool, pool.scores, pool.order, pool.order)


def rank(pool: CandidatePool) -> Questions | Outcome:
    """Winner and loser of the most decided comparison of disjoint random pairs."""
    if not pool.comparisons:
        return _disjoint_pairs(pool)
    if reason := _undecided(pool):
        return reason
    decided = [comparison for comparison in pool.comparisons if comparison.decision]
    clearest = max(decided, key=lambda comparison: abs((comparison.p_a or 0.0) - 0.5))
    return Outcome("kept", None, *(clearest.decision or (clearest.a, clearest.b)))


def rank_and_sift(pool: CandidatePool) -> Questions | Outcome:
    """Highest-scoring winner and lowest-scoring loser of comparisons of disjoint random pairs."""
    if not pool.comparisons:
        return _disjoint_pairs(pool)
    if reason := _undecided(pool):
        return reason
    decisions = [comparison.decision for comparison in pool.comparisons if comparison.decision]
    if unscored := _unscored(pool, [i for decision in decisions for i in decision]):
        return Questions(score=unscored)
    winners, losers = zip(*decisions, strict=True)
    return _extremes(pool, pool.scores, winners, losers)


def tournament(pool: CandidatePool) -> Questions | Outcome:
    """Strongest and weakest candidate by Bradley-Terry."""
    played = [(comparison.a, comparison.b, comparison.p_a) for comparison in pool.comparisons]
    if pool.turns < (pool.options.rounds or 1):
        if not pool.options.rounds:
            return Questions(compare=[*combinations(pool.order, 2)])
        if pairs := swiss_round(pool.order, played):
            return Questions(compare=pairs)
    if unread := _unread(pool):
        return unread
    scores = strengths(pool.order, played)
    return _extremes(pool, scores, pool.order, pool.order)


STRATEGIES: Mapping[Strategy, Callable[[CandidatePool], Questions | Outcome]] = {
    Strategy.RANDOM: random,
    Strategy.SCORE: score,
    Strategy.RANK: rank,
    Strategy.RANK_AND_SIFT: rank_and_sift,
    Strategy.TOURNAMENT: tournament,
}


def unreadable_reason(verdict: Verdict) -> str:
    """Reason why a verdict holds no number."""
    match verdict:
        case Unparsed():
            return verdict.reason
        case Failed():
            return verdict.error
    return "the verdict has no overall score"


def _unscored(pool: CandidatePool, indices: Sequence[int]) -> list[int]:
    return [i for i in indices if i not in pool.scores and i not in pool.reasons]


def _disjoint_pairs(pool: CandidatePool) -> Questions:
    return Questions(compare=[*zip(pool.order[::2], pool.order[1::2], strict=False)])


def _unread(pool: CandidatePool) -> Outcome | None:
    """Outcome if no comparison could be read."""
    if any(comparison.p_a is not None for comparison in pool.comparisons):
        return None
    reason = unreadable_reason(pool.comparisons[0].verdict)
    return Outcome("failed", f"no comparison could be read: {reason}")


def _undecided(pool: CandidatePool) -> Outcome | None:
    """Outcome if no comparison has a winner."""
    if any(comparison.decision for comparison in pool.comparisons):
        return None
    unread = [comparison for comparison in pool.comparisons if comparison.p_a is None]
    reason = "every comparison is a tie"
    if unread:
        why = unreadable_reason(unread[0].verdict)
        reason += f", but {len(unread)} of {len(pool.comparisons)} that could not be read: {why}"
    return _unread(pool) or Outcome("dropped", reason)


def _extremes(
    pool: CandidatePool,
    scores: Mapping[int, float],
    winners: Sequence[int],
    losers: Sequence[int],
) -> Outcome:
    """Highest-scoring winner, lowest-scoring loser."""
    options = pool.options
    best = max((i for i in winners if i in scores), key=scores.__getitem__, default=None)
    worst = min((i for i in losers if i in scores), key=scores.__getitem__, default=None)
    if best is None or worst is None:
        return Outcome("failed", "no winner or no loser has a readable score", scores=scores)
    high, low = scores[best], scores[worst]
    if not high - low > options.margin:
        margin = f" by more than the margin, {options.margin:g}" if options.margin else ""
        reason = f"the best score, {high:.4g}, is not above the worst, {low:.4g}{margin}"
        return Outcome("dropped", reason, scores=scores)
    if options.min_quality is not None and high < options.min_quality:
        reason = f"the best score, {high:.4g}, is below the minimum, {options.min_quality:g}"
        return Outcome("dropped", reason, scores=scores)
    return Outcome("kept", None, best, worst, scores)
