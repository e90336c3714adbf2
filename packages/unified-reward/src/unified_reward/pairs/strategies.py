"""Pair strategies: functions from the answers so far to the next questions about a prompt.

A strategy is a plain function of a `CandidatePool`. It returns the next `Questions`, or the
`Outcome` when it needs no more answers. Knows neither judges nor files.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations
from typing import Literal, NamedTuple

from unified_reward.core.errors import ConfigError
from unified_reward.core.verdicts import Failed, Preferred, Score, Unparsed, Verdict
from unified_reward.pairs.beliefs import Standing, beliefs
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
    ADAPTIVE = "adaptive"
    """Best and worst candidate by scores, and by more questions where the scores leave doubt."""


_SCORED = (Strategy.SCORE, Strategy.RANK_AND_SIFT, Strategy.ADAPTIVE)
CONFIDENCE = 0.7
"""Default of `PairOptions.confidence`."""


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
    """Times a score is asked and averaged, >= 1; more than one helps only if the judge samples.
    The adaptive strategy repeats those in doubt alone, in place of comparisons."""
    rounds: int = 0
    """Swiss rounds of a tournament; 0 compares all with all."""
    seed: int = 0
    """Random seed of the order of the candidates."""
    confidence: float | None = None
    """Adaptive: the questions end when the chosen candidate is above each other one, and the
    rejected one below, with this probability by the scores and comparisons so far, in (0.5, 1);
    None for `CONFIDENCE`."""

    def __post_init__(self) -> None:
        if self.readings < 1 or self.rounds < 0 or not 0 <= self.margin < math.inf:
            raise ConfigError(
                "readings must be >= 1, rounds and margin >= 0 and finite, not "
                f"{self.readings}, {self.rounds} and {self.margin:g}"
            )
        if self.min_quality is not None and not math.isfinite(self.min_quality):
            raise ConfigError(f"min_quality is a finite number, not {self.min_quality}")
        if self.min_quality is not None and self.strategy not in _SCORED:
            raise ConfigError(
                f"min_quality needs scores, which strategy {self.strategy} does not ask for; "
                f"{', '.join(_SCORED)} do"
            )
        if self.margin and self.strategy not in (*_SCORED, Strategy.TOURNAMENT):
            raise ConfigError(f"a margin needs scores; strategy {self.strategy} asks for none")
        if self.readings > 1 and self.strategy not in _SCORED:
            raise ConfigError(
                f"readings are of scores, which strategy {self.strategy} does not ask for; "
                f"{', '.join(_SCORED)} do"
            )
        if self.rounds and self.strategy is not Strategy.TOURNAMENT:
            raise ConfigError(
                f"rounds are those of a tournament; strategy {self.strategy} has none"
            )
        if self.confidence is not None and self.strategy is not Strategy.ADAPTIVE:
            raise ConfigError(f"a confidence is that of strategy adaptive, not {self.strategy}")
        if self.confidence is not None and not 0.5 < self.confidence < 1:
            raise ConfigError(f"a confidence is between 0.5 and 1, not {self.confidence:g}")

    @property
    def orders_at_once(self) -> Literal[1, 2]:
        """Orders in which one question is asked; the adaptive strategy asks each by itself."""
        return 1 if self.strategy is Strategy.ADAPTIVE else self.orders


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
    """A candidate for each reading of its score."""


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
    readings: dict[int, list[Score]] = field(default_factory=dict[int, list[Score]])
    """Readable scores by candidate; none is empty."""
    reasons: dict[int, str] = field(default_factory=dict[int, str])
    """Reason by candidate for having no score."""
    n_asked: Counter[int] = field(default_factory=Counter[int])
    """Times that the score of each candidate was asked."""
    turns: int = 0
    """Times the judge was asked so far."""
    order_free: bool = False
    """True if the judge's comparisons follow from its scores, see `BaseJudge.order_free`."""

    @property
    def scores(self) -> dict[int, float]:
        """Mean of the readings by candidate."""
        return {i: sum(s.value for s in each) / len(each) for i, each in self.readings.items()}


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


def adaptive(pool: CandidatePool) -> Questions | Outcome:
    """Best and worst candidate by scores, and by more questions where the scores leave doubt.

    Every candidate is scored once. While a rival of the best, or of the worst, could be in its
    place, the two are compared in one order, and if that leaves doubt in the other. The first are
    the best and the worst, in all orders. With several readings the two are scored again instead.
    """
    if unscored := [i for i in pool.order if not pool.n_asked[i]]:
        return Questions(score=unscored)
    players = [i for i in pool.order if i in pool.readings]
    if len(players) < 2:
        reason = next(iter(pool.reasons.values()))
        return Outcome("failed", f"fewer than two scores could be read: {reason}")
    place = {player: k for k, player in enumerate(players)}
    credible = pool.comparisons if _contradictions(pool.comparisons) < _MOST_CONTRADICTIONS else []
    games = [(place[c.a], place[c.b], c.p_a) for c in credible]
    standing = Standing(players, beliefs([pool.readings[i] for i in players], games))
    if questions := _about_doubts(pool, standing):
        return questions
    return _extremes(pool, standing.worth, players, players)


_MOST_CONTRADICTIONS = 2
STRATEGIES: Mapping[Strategy, Callable[[CandidatePool], Questions | Outcome]] = {
    Strategy.RANDOM: random,
    Strategy.SCORE: score,
    Strategy.RANK: rank,
    Strategy.RANK_AND_SIFT: rank_and_sift,
    Strategy.TOURNAMENT: tournament,
    Strategy.ADAPTIVE: adaptive,
}


def unreadable_reason(verdict: Verdict) -> str:
    """Reason why a verdict holds no number."""
    match verdict:
        case Unparsed() | Failed():
            return verdict.reason
    return "the verdict has no overall score"


def _contradictions(comparisons: Sequence[Comparison]) -> int:
    """Pairs compared in both orders that contradict themselves, minus those that do not.

    A pair contradicts itself if its orders do not name one winner, or one cannot be read. From two
    on, comparisons are not used: the judge looks at the order more than at the candidates.
    """
    by_pair: dict[frozenset[int], list[tuple[int, int] | None]] = {}
    for comparison in comparisons:
        pair = frozenset((comparison.a, comparison.b))
        by_pair.setdefault(pair, []).append(comparison.decision)
    twice = [decisions for decisions in by_pair.values() if len(decisions) == 2]
    return sum(1 if first is None or first != second else -1 for first, second in twice)


def _about_doubts(pool: CandidatePool, standing: Standing) -> Questions | None:
    """Next question about the best and its strongest rival, and about the worst and its own."""
    options = pool.options
    confidence = CONFIDENCE if options.confidence is None else options.confidence
    cautious = _contradictions(pool.comparisons) > 0
    score: dict[int, None] = {}
    compare: dict[tuple[int, int], None] = {}
    for doubts in standing.doubts(confidence):
        for pair in doubts:
            fewest = min(pool.n_asked[i] for i in pair)
            if fewest < options.readings:
                score |= dict.fromkeys(i for i in pair if pool.n_asked[i] == fewest)
                break
            if options.readings == 1 and (orders := _unasked_orders(pool, *pair)):
                compare |= dict.fromkeys(orders if cautious else orders[:1])
                break
    if compare and not pool.comparisons:
        compare = dict.fromkeys(_unasked_orders(pool, *standing.ends))
    return Questions([*compare], [*score]) if compare or score else None


def _unasked_orders(pool: CandidatePool, a: int, b: int) -> list[tuple[int, int]]:
    """Orders in which two candidates may still be compared; none if that tells nothing."""
    if pool.order_free or _contradictions(pool.comparisons) >= _MOST_CONTRADICTIONS:
        return []
    first, second = sorted((a, b), key=pool.order.index)
    done = {(comparison.a, comparison.b) for comparison in pool.comparisons}
    orders = [(first, second), (second, first)][: pool.options.orders]
    return [order for order in orders if order not in done]


def _unscored(pool: CandidatePool, indices: Sequence[int]) -> list[int]:
    """Candidates without a score, each once a reading."""
    missing = [i for i in indices if i not in pool.readings and i not in pool.reasons]
    return [i for i in missing for _ in range(pool.options.readings)]


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
