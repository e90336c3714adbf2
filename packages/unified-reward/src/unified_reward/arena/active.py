"""Active choice of pairs: people are asked where one judge is unsure, or where several disagree.

Uncertainty sampling (Lewis and Gale 1994, arXiv:cmp-lg/9407020) and query by committee (Seung et
al. 1992, doi:10.1145/130385.130417).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, pvariance
from typing import Literal

from unified_reward.bench.benchmark import item_hash
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Preferred, Verdict
from unified_reward.io.journal import open_journal
from unified_reward.io.rows import Row
from unified_reward.io.verdict_rows import read_verdict, read_verdict_rows
from unified_reward.judges import bulk


By = Literal["uncertainty", "disagreement"]
ACTIVE = "active"
"""Tag of a pair with the reason of its place."""


@dataclass(frozen=True)
class DoubtfulPair:
    """A pair, and how much judges leave open about it."""

    example: Example
    doubt: float
    """The higher, the earlier people should be asked: 0 to 1 by uncertainty, to 0.25 by
    disagreement."""
    probabilities: Mapping[str, float]
    """Probability that the first is better, a tie counted half, by name of the judge."""
    flips: tuple[str, ...]
    """Judges that named another winner in the other order."""

    def tagged(self, by: By) -> Example:
        """Return the pair with the reason of its place as a tag."""
        reasons = [
            f"p {p:.3f} by {name}{' (orders disagree)' * (name in self.flips)}"
            for name, p in self.probabilities.items()
        ]
        tag = f"{by} {self.doubt:.3f}: {', '.join(reasons)}"
        return replace(self.example, tags={**self.example.tags, ACTIVE: tag})


def rank_pairs(
    pairs: Sequence[Example],
    verdicts: Mapping[str, Sequence[Verdict]],
    by: By = "uncertainty",
    *,
    seed: int = 0,
) -> list[DoubtfulPair]:
    """Sort pairs by how much a vote of people would tell, most first.

    By uncertainty the doubt of a judge is ``1 - |2 p - 1|`` for its probability ``p`` over both
    orders, and 1 where the orders name different winners; of several judges the mean. By
    disagreement it is the variance of ``p`` over the judges. Equal doubts come in an order by the
    seed, and pairs of one prompt not behind each other while there are others.

    Args:
        pairs: Rows of two candidates.
        verdicts: By name of the judge: its verdict on each pair.
        by: Kind of doubt; disagreement takes at least two judges.
        seed: Random seed of the order of equal doubts.

    Returns:
        The pairs on which every judge has a preference.

    Raises:
        ConfigError: There are too few judges.
    """
    if len(verdicts) < (2 if by == "disagreement" else 1):
        raise ConfigError(f"{by} is of {'several judges' if verdicts else 'a judge'}; name more")
    ranked: list[DoubtfulPair] = []
    for i, pair in enumerate(pairs):
        known = {name: given[i] for name, given in verdicts.items()}
        preferences = {
            name: verdict for name, verdict in known.items() if isinstance(verdict, Preferred)
        }
        if len(preferences) == len(known):
            ranked.append(_doubtful(pair, preferences, by))
    ranked.sort(key=lambda one: (-one.doubt, item_hash(one.example.id, seed)))
    return _spread(ranked)


def _doubtful(pair: Example, preferences: Mapping[str, Preferred], by: By) -> DoubtfulPair:
    shares = {name: verdict.probability for name, verdict in preferences.items()}
    flips = tuple(name for name, verdict in preferences.items() if verdict.consistent is False)
    if by == "disagreement":
        doubt = pvariance(shares.values())
    else:
        doubt = fmean(1.0 if name in flips else 1 - abs(2 * p - 1) for name, p in shares.items())
    return DoubtfulPair(pair, doubt, shares, flips)


def _spread(ranked: Iterable[DoubtfulPair]) -> list[DoubtfulPair]:
    """Move pairs whose prompt was just asked behind the next one of another prompt."""
    order: list[DoubtfulPair] = []
    waiting: deque[DoubtfulPair] = deque()  # all of the prompt that was asked last
    for pair in ranked:
        if order and _prompt(pair) == _prompt(order[-1]):
            waiting.append(pair)
            continue
        order.append(pair)
        if waiting:
            order.append(waiting.popleft())
    return [*order, *waiting]


def _prompt(pair: DoubtfulPair) -> tuple[object, ...]:
    return pair.example.task, pair.example.prompt, pair.example.context


def ask_judge(
    pairs: Sequence[Example],
    work: bulk.JudgeWork,
    journal: Path,
    *,
    retry_failed: bool = False,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Verdict]:
    """Ask a judge about pairs, resumable: what stands in the journal is not asked again.

    Args:
        pairs: Rows of two candidates, with different ids.
        work: The judge.
        journal: File of verdict rows, appended to.
        retry_failed: Ask the pairs again that failed in an earlier run.
        on_progress: Called with the number of pairs just done.

    Returns:
        Verdict on each pair.

    Raises:
        ConfigError: The judge cannot be opened, or the journal was made with other settings, files
            or pairs.
        DataError: The journal cannot be written.
    """

    def rows() -> Iterator[Row]:
        return (Row(i, pair.id, pair) for i, pair in enumerate(pairs, 1))

    with open_journal(journal) as opened:
        for chunk in bulk.run(work, rows, opened, size=bulk.CHUNK, retry_failed=retry_failed):
            on_progress(len(chunk.ids))
        answers = {row["id"]: row for row in read_verdict_rows(journal)}
    return [read_verdict(answers[pair.id]) for pair in pairs]
