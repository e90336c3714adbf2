"""From candidates to a preference pair: how the chosen and the rejected one of a prompt are found.

Several prompts are talked about at once, so that the judge is asked in large batches. Does not know
journals or where the judge runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Example, Sample
from unified_reward.core.verdicts import Failed, Preferred, Scored, Unparsed, Verdict
from unified_reward.io.rows import part_row
from unified_reward.io.verdict_rows import verdict_row
from unified_reward.pairs.tournament import strengths, swiss_round


Side = Literal["chosen", "rejected"]
_SIDES = ("chosen", "rejected", "chosen_score", "rejected_score")


class Strategy(StrEnum):
    """How a pair is found."""

    RANDOM = "random"
    """Two candidates at random; asks nothing."""
    SCORE = "score"
    """The best and the worst by score."""
    RANK = "rank"
    """The most decided of n/2 comparisons of disjoint random pairs."""
    RANK_AND_SIFT = "rank+sift"
    """The best-scored winner and the worst-scored loser of those comparisons (arXiv:2503.05236,
    section III-B)."""
    TOURNAMENT = "tournament"
    """The strongest and the weakest by Bradley-Terry, of all comparisons or of Swiss rounds."""


@dataclass(frozen=True)
class PairOptions:
    """How pairs are made."""

    strategy: Strategy = Strategy.RANK_AND_SIFT
    margin: float = 0.0
    """By how much the chosen one must be above the rejected one, >= 0: in units of the judge's
    score, for a tournament in log-odds; a difference of just the margin is too small."""
    min_quality: float | None = None
    """Lowest score of a chosen one, in units of the judge's score."""
    orders: Literal[1, 2] = 2
    """Orders in which a comparison is asked."""
    readings: int = 1
    """Times a score is asked, >= 1; their mean counts. A judge that answers alike each time needs
    one."""
    rounds: int = 0
    """Swiss rounds of a tournament; 0 compares all with all."""
    seed: int = 0

    def __post_init__(self) -> None:
        scored = (Strategy.SCORE, Strategy.RANK_AND_SIFT)
        if self.readings < 1 or self.rounds < 0 or not self.margin >= 0:
            raise ConfigError(
                "readings are at least 1, rounds and margin at least 0, not "
                f"{self.readings}, {self.rounds} and {self.margin:g}"
            )
        if self.min_quality is not None and self.strategy not in scored:
            raise ConfigError(
                f"a minimum quality needs scores, which {self.strategy} does not ask for; "
                f"{' and '.join(scored)} do"
            )
        if self.margin and self.strategy not in (*scored, Strategy.TOURNAMENT):
            raise ConfigError(f"a margin needs scores or strengths; {self.strategy} has none")


class Match(NamedTuple):
    """A comparison of two candidates, by index."""

    a: int
    b: int
    verdict: Verdict

    @property
    def p_a(self) -> float | None:
        """Probability that a is better; None without a verdict."""
        return self.verdict.probability if isinstance(self.verdict, Preferred) else None

    @property
    def places(self) -> tuple[int, int] | None:
        """Winner and loser; None for a tie or no verdict."""
        if not isinstance(self.verdict, Preferred) or self.verdict.winner == "tie":
            return None
        return (self.a, self.b) if self.verdict.winner == "first" else (self.b, self.a)


class _NoPairError(Exception):
    """There is no pair, and the judge could say so."""


class _NoVerdictError(Exception):
    """There is no pair because the judge could not be asked or read."""


_Talk = Generator[list[Sample], list[Verdict], tuple[int, int]]
"""Gives questions, takes their verdicts, ends with chosen and rejected."""


class Board:
    """What is known about the candidates of one prompt."""

    def __init__(self, pool: Example, how: PairOptions) -> None:
        self.pool = pool
        self.how = how
        self.live: list[int] = []
        """Candidates that can be asked about, none twice."""
        self.scores: dict[int, float] = {}
        self.sides: dict[int, Side] = {}
        self.reasons: dict[int, str] = {}
        self.matches: list[Match] = []
        self.calls = 0
        """Questions put to the judge; a comparison in both orders is two."""
        digest = hashlib.sha256(f"{pool.id} {how.seed}".encode()).digest()
        self._rng = np.random.default_rng(list(digest))

    def sample(self, *indices: int, reading: int = 0) -> Sample:
        """The question about one candidate or two."""
        pool = self.pool
        name = f"{pool.id} {'-'.join(map(str, indices))}" + (f" #{reading}" if reading else "")
        chosen = tuple(pool.candidates[i] for i in indices)
        return Sample(pool.task, pool.prompt, chosen, pool.context, pool.criteria, name)

    def open(self, judge: BaseJudge) -> None:
        """Set aside what equals an earlier candidate and what cannot be shown to the judge."""
        firsts: dict[Any, int] = {}
        for i, one in enumerate(self.pool.candidates):
            if firsts.setdefault(one, i) != i:
                self.reasons[i] = f"the same as candidate {firsts[one]}"
        samples: dict[int, Sample] = {}
        for i in firsts.values():
            try:
                samples[i] = self.sample(i)
            except DataError as error:
                self.reasons[i] = str(error)
        for i, lost in zip(samples, judge.check_samples([*samples.values()]), strict=True):
            if lost is None:
                self.live.append(i)
            else:
                self.reasons[i] = lost.error

    def shuffled(self) -> list[int]:
        """The live candidates in the random order of this prompt and seed."""
        return [self.live[k] for k in self._rng.permutation(len(self.live))]

    def compare(self, pairs: Sequence[tuple[int, int]]) -> Generator[list[Sample], list[Verdict]]:
        """Ask about pairs."""
        self.calls += len(pairs) * self.how.orders
        verdicts = yield [self.sample(a, b) for a, b in pairs]
        for (a, b), verdict in zip(pairs, verdicts, strict=True):
            self.matches.append(Match(a, b, verdict))

    def score(self, indices: Sequence[int]) -> Generator[list[Sample], list[Verdict]]:
        """Ask for scores, as often as there are readings; the mean of those that can be read."""
        k = self.how.readings
        self.calls += len(indices) * k
        verdicts = iter((yield [self.sample(i, reading=r) for i in indices for r in range(k)]))
        for i in indices:
            read = [next(verdicts) for _ in range(k)]
            values = [one.score.value for one in read if isinstance(one, Scored) and one.score]
            if values:
                self.scores[i] = sum(values) / len(values)
            else:
                self.reasons[i] = _why(read[0])

    def sift(self, winners: Sequence[int], losers: Sequence[int]) -> tuple[int, int]:
        """The best of the ones and the worst of the others by score."""
        best = [i for i in winners if i in self.scores]
        worst = [i for i in losers if i in self.scores]
        if not best or not worst:
            raise _NoVerdictError("no score could be read of the chosen or of the rejected ones")
        chosen, rejected = (
            max(best, key=self.scores.__getitem__),
            min(worst, key=self.scores.__getitem__),
        )
        high, low = self.scores[chosen], self.scores[rejected]
        if not high - low > self.how.margin:
            told = f" by more than {self.how.margin:g}" if self.how.margin else ""
            raise _NoPairError(
                f"the best, at {high:.4g}, is not above the worst, at {low:.4g}{told}"
            )
        if self.how.min_quality is not None and high < self.how.min_quality:
            raise _NoPairError(f"the best, at {high:.4g}, is below {self.how.min_quality:g}")
        return chosen, rejected


class PairResult(NamedTuple):
    """What came of one prompt."""

    board: Board
    """Scores, sides, comparisons and questions spent."""
    status: Literal["kept", "dropped", "failed"]
    """Dropped: the judge sees no pair; failed: it could not be asked or read."""
    reason: str | None
    chosen: int | None = None
    rejected: int | None = None


def _why(verdict: Verdict) -> str:
    match verdict:
        case Unparsed():
            return verdict.reason
        case Failed():
            return verdict.error
    return "a verdict without a score"


def _at_random(board: Board) -> _Talk:
    chosen, rejected, *_ = board.shuffled()
    return chosen, rejected
    yield []


def _by_score(board: Board) -> _Talk:
    order = board.shuffled()
    yield from board.score(order)
    return board.sift(order, order)


def _in_pairs(board: Board) -> Generator[list[Sample], list[Verdict], list[tuple[int, int]]]:
    """Winner and loser of each comparison of disjoint random pairs that has them."""
    order = board.shuffled()
    yield from board.compare([*zip(order[::2], order[1::2], strict=False)])
    places = [match.places for match in board.matches]
    decided = [one for one in places if one is not None]
    if not decided and all(match.p_a is None for match in board.matches):
        raise _NoVerdictError(f"no comparison could be read: {_why(board.matches[0].verdict)}")
    if not decided:
        raise _NoPairError("every comparison is a tie")
    for winner, loser in decided:
        board.sides |= {winner: "chosen", loser: "rejected"}
    return decided


def _by_rank(board: Board) -> _Talk:
    yield from _in_pairs(board)
    decided = [one for one in board.matches if one.places]
    clearest = max(decided, key=lambda one: abs((one.p_a or 0.0) - 0.5))
    return clearest.places or (clearest.a, clearest.b)


def _by_rank_and_sift(board: Board) -> _Talk:
    decided = yield from _in_pairs(board)
    yield from board.score([i for pair in decided for i in pair])
    return board.sift([winner for winner, _ in decided], [loser for _, loser in decided])


def _by_tournament(board: Board) -> _Talk:
    order = board.shuffled()
    if not board.how.rounds:
        yield from board.compare([*combinations(order, 2)])
    for _ in range(board.how.rounds):
        played = [(one.a, one.b, one.p_a) for one in board.matches]
        yield from board.compare(swiss_round(order, played))
    if all(match.p_a is None for match in board.matches):
        raise _NoVerdictError(f"no comparison could be read: {_why(board.matches[0].verdict)}")
    board.scores = strengths(order, [(one.a, one.b, one.p_a) for one in board.matches])
    return board.sift(order, order)


_STRATEGIES: Mapping[Strategy, Callable[[Board], _Talk]] = {
    Strategy.RANDOM: _at_random,
    Strategy.SCORE: _by_score,
    Strategy.RANK: _by_rank,
    Strategy.RANK_AND_SIFT: _by_rank_and_sift,
    Strategy.TOURNAMENT: _by_tournament,
}


def _talk(board: Board) -> Generator[list[Sample], list[Verdict], PairResult]:
    """The talk about one prompt."""
    if len(board.live) < 2:
        told = "; ".join(sorted(set(board.reasons.values()))[:3])
        of = f"{len(board.live)} of {len(board.pool.candidates)} candidates can be judged"
        return PairResult(board, "failed", f"{of}, two are needed: {told}")
    try:
        chosen, rejected = yield from _STRATEGIES[board.how.strategy](board)
    except _NoPairError as why:
        return PairResult(board, "dropped", str(why))
    except _NoVerdictError as why:
        return PairResult(board, "failed", str(why))
    board.sides |= {chosen: "chosen", rejected: "rejected"}
    return PairResult(board, "kept", None, chosen, rejected)


def make_pairs(pools: Sequence[Example], judge: BaseJudge, how: PairOptions) -> list[PairResult]:
    """Find a pair for every prompt, in order.

    Args:
        pools: Prompts with their candidates.
        judge: Who is asked, for all prompts at once; each medium is decoded once.
        how: Strategy, thresholds and seed.
    """
    boards = [Board(pool, how) for pool in pools]
    with judge.cache_media():
        for board in boards:
            board.open(judge)
        return _together([_talk(board) for board in boards], judge, how.orders)


def _together(talks: Sequence[Any], judge: BaseJudge, orders: Literal[1, 2]) -> list[PairResult]:
    """Drive all talks at once: what they ask in a turn is one call of the judge."""
    ends: dict[int, PairResult] = {}
    heard: dict[int, list[Verdict] | None] = dict.fromkeys(range(len(talks)))
    while heard:
        asked: dict[int, list[Sample]] = {}
        for i, verdicts in heard.items():
            try:
                asked[i] = talks[i].send(verdicts)
            except StopIteration as end:
                ends[i] = end.value
        told = iter(judge.ask([one for each in asked.values() for one in each], orders=orders))
        heard = {i: [next(told) for _ in each] for i, each in asked.items()}
    return [ends[i] for i in range(len(talks))]


def pairs_row(paired: PairResult, judge: BaseJudge, folder: Path) -> dict[str, Any]:
    """What was found as a row of a file in ``folder``.

    Raises:
        DataError: A medium is in memory, not in a file.
    """
    board, pool = paired.board, paired.board.pool
    sides = (paired.chosen, paired.rejected)
    parts = [None if i is None else part_row(pool.candidates[i], folder) for i in sides]
    scores = [None if i is None else board.scores.get(i) for i in sides]
    return {
        "id": pool.id,
        "status": paired.status,
        "reason": paired.reason,
        "task": pool.task.value,
        "prompt": pool.prompt,
        "context": [part_row(one, folder) for one in pool.context],
        **dict(zip(_SIDES, (*parts, *scores), strict=True)),
        "candidates": [_candidate_row(board, i, folder) for i in range(len(pool.candidates))],
        "comparisons": [_match_row(one, judge) for one in board.matches],
        **_asked(board.calls, judge, board.how),
    }


def failed_row(name: str, reason: str, judge: BaseJudge, how: PairOptions) -> dict[str, Any]:
    """The row of a prompt whose candidates cannot be read."""
    return {
        "id": name,
        "status": "failed",
        "reason": reason,
        **dict.fromkeys(("task", "prompt", "context", *_SIDES)),
        "candidates": [],
        "comparisons": [],
        **_asked(0, judge, how),
    }


def _asked(calls: int, judge: BaseJudge, how: PairOptions) -> dict[str, Any]:
    return {
        "judge_calls": calls,
        "judge": judge.name,
        "family": judge.family,
        "strategy": how.strategy.value,
        "seed": how.seed,
    }


def _candidate_row(board: Board, i: int, folder: Path) -> dict[str, Any]:
    part = part_row(board.pool.candidates[i], folder)
    known = {
        "score": board.scores.get(i),
        "side": board.sides.get(i),
        "reason": board.reasons.get(i),
    }
    return (part if isinstance(part, dict) else {"parts": part}) | known


def _match_row(match: Match, judge: BaseJudge) -> dict[str, Any]:
    row = verdict_row("", match.verdict, judge=judge.name, family=judge.family)
    kept = ("winner", "probability", "orders", "reason")
    return {"a": match.a, "b": match.b} | {key: row[key] for key in kept}
