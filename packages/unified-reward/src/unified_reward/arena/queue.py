"""Queue of an arena: which pair a rater is asked next, and on which side each candidate stands.

Pure logic over ids: it knows neither files nor requests, and the time is passed in.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from unified_reward.core.errors import ConfigError


Order = Literal["ab", "ba"]
REPEAT = " #2"
"""End of the id of a repeat, behind that of its item."""


@dataclass(frozen=True)
class QueueConfig:
    """Settings of a queue."""

    votes: int = 2
    """Votes of different raters that every item gets, >= 1."""
    gold_share: float = 0.1
    """Share of a rater's votes that are on gold items, while there are some, in [0, 0.5]."""
    repeat_share: float = 0.1
    """Share of a rater's votes that repeat an own earlier one with sides swapped, in [0, 0.5]."""
    repeat_gap: int = 10
    """Least number of own votes between an item and its repeat."""
    seed: int = 0
    lease_s: float = 600.0
    """Seconds for which an item that a rater sees counts as a vote, > 0."""

    def __post_init__(self) -> None:
        if self.votes < 1:
            raise ConfigError(f"votes is {self.votes}; every item gets at least 1")
        for name in ("gold_share", "repeat_share"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise ConfigError(f"{name} is {getattr(self, name)}; a share is from 0 to 0.5")


class Turn(NamedTuple):
    """A question to a rater."""

    id: str
    """Id of the vote: that of the item, with `REPEAT` behind it for a repeat."""
    item: str
    order: Order
    """Candidates from left to right."""

    @property
    def repeats(self) -> str:
        """Id of the item that is repeated; empty for any other."""
        return self.item if self.id != self.item else ""


class Progress(NamedTuple):
    """Progress of a rater, and of all."""

    votes: int
    """Votes of the rater, gold items and repeats included."""
    left: int
    """Items that the rater can still get."""
    all_votes: int
    """Votes of all raters on items, at most as many of each as it needs."""
    needed: int
    """Votes that all items together need."""


class VoteQueue:
    """Items with their votes so far; every vote of a rater counts once.

    An item needs the votes of different raters. One that a rater has open counts as voted for a
    while, so that two raters seldom get the same; nobody waits for it, and more votes than needed
    are kept.
    """

    def __init__(self, items: Sequence[str], gold: Sequence[str], config: QueueConfig) -> None:
        """Begin without votes.

        Args:
            items: Ids in the order in which they are asked.
            gold: Ids of the gold items, which test attention; distinct from ``items``.
            config: Settings.
        """
        self._config = config
        self._items = dict.fromkeys(items)
        self._gold = set(gold)
        self._counts: Counter[str] = Counter()
        self._history: dict[str, dict[str, None]] = {}
        self._leases: dict[str, tuple[Turn, float]] = {}

    def turn(self, rater: str, name: str) -> Turn | None:
        """The question with an id, as this rater sees it; None if there is none."""
        item = name.removesuffix(REPEAT)
        is_repeat = name != item
        if item not in self._items and (is_repeat or item not in self._gold):
            return None
        is_swapped = (_unit(self._config.seed, "side", item, rater) < 0.5) != is_repeat
        return Turn(name, item, "ba" if is_swapped else "ab")

    def next(self, rater: str, now: float) -> Turn | None:
        """Lease the next question to a rater, or the one that is open; None when all is done.

        Args:
            rater: Name of the rater.
            now: Time in seconds, of a clock that never goes back.
        """
        lease = self._leases.get(rater)
        turn = lease[0] if lease else self._choose(rater, list(self._history.get(rater, ())), now)
        if turn:
            self._leases[rater] = turn, now + self._config.lease_s
        return turn

    def following(self, rater: str, turn: Turn, now: float) -> Turn | None:
        """The question that the rater would get after a vote on ``turn``; leases nothing."""
        return self._choose(rater, [*self._history.get(rater, ()), turn.id], now)

    def has_voted(self, rater: str, name: str) -> bool:
        """True if a vote of the rater on a question counts."""
        return name in self._history.get(rater, ())

    def add(self, rater: str, name: str) -> None:
        """Count a vote of a rater, also on an item that is not among those asked."""
        self._history.setdefault(rater, {})[name] = None
        self._counts[name] += 1
        if self._leases.get(rater, (None,))[0] == self.turn(rater, name):
            self._leases.pop(rater, None)

    def last(self, rater: str) -> str | None:
        """Id of the rater's last vote on a question that is still asked."""
        votes = reversed(self._history.get(rater, {}))
        return next((name for name in votes if self.turn(rater, name)), None)

    def withdraw(self, rater: str, name: str, now: float) -> None:
        """Take a vote of a rater back, and lease its question to the rater again."""
        if not self.has_voted(rater, name):
            return
        del self._history[rater][name]
        self._counts[name] -= 1
        if turn := self.turn(rater, name):
            self._leases[rater] = turn, now + self._config.lease_s

    def remove(self, item: str) -> None:
        """Take an item out for everybody; its votes are kept."""
        self._items.pop(item, None)
        self._gold.discard(item)
        leases = self._leases.items()
        self._leases = {rater: lease for rater, lease in leases if lease[0].item != item}

    def progress(self, rater: str) -> Progress:
        """Progress of a rater, and of all."""
        most = self._config.votes
        voted = self._history.get(rater, {})
        return Progress(
            len(voted),
            sum(1 for _ in self._open(voted)),
            sum(min(self._counts[item], most) for item in self._items),
            most * len(self._items),
        )

    def _open(self, voted: Container[str]) -> Iterator[str]:
        """Items that need votes of somebody who has not voted on them."""
        most = self._config.votes
        return (item for item in self._items if item not in voted and self._counts[item] < most)

    def _choose(self, rater: str, votes: list[str], now: float) -> Turn | None:
        """The next question after these votes of the rater, oldest first."""
        running = Counter(
            turn.id for other, (turn, end) in self._leases.items() if other != rater and end > now
        )
        item = min(
            self._open(set(votes)),
            key=lambda item: self._counts[item] + running[item],
            default=None,
        )
        if item is None:
            return None
        slot = _unit(self._config.seed, "slot", rater, len(votes))
        test = None
        if slot < self._config.gold_share:
            unvoted = self._gold.difference(votes)
            test = min(unvoted, key=lambda item: _unit(item, rater), default=None)
        elif slot >= 1 - self._config.repeat_share:
            test = self._repeat(votes)
        return self.turn(rater, test or item)

    def _repeat(self, votes: list[str]) -> str | None:
        """The repeat of the oldest vote that has none."""
        old = votes[: max(0, len(votes) - self._config.repeat_gap)]
        names = (item + REPEAT for item in old if item in self._items)
        voted = set(votes)
        return next((name for name in names if name not in voted), None)


def _unit(*parts: object) -> float:
    """Hash in [0, 1)."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
