"""Everything that an arena answers, without HTTP: questions, votes, undo and standings."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from unified_reward.arena.items import ArenaInput, ArenaItem, check_votes
from unified_reward.arena.journal import VoteJournal
from unified_reward.arena.media import MediaStore
from unified_reward.arena.queue import REPEAT, QueueConfig, Turn, VoteQueue
from unified_reward.arena.standings import standings
from unified_reward.core.errors import ConfigError, MediaError
from unified_reward.core.samples import Candidate, Image, Video
from unified_reward.io.vote_rows import Choice, Vote


Side = Literal["left", "right", "tie", "both_bad", "cannot_tell"]
Stars = Mapping[str, tuple[int, int]]
"""Stars of the left and of the right candidate by aspect."""


class RequestError(Exception):
    """A request that is refused, with a message that a rater may read."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


@dataclass(frozen=True)
class ArenaConfig:
    """Settings of an arena."""

    title: str = "Arena"
    aspects: tuple[str, ...] = ()
    """Aspects that raters may give stars for."""
    queue: QueueConfig = field(default_factory=QueueConfig)
    judge: Mapping[str, float] | None = None
    """Probability that ``a`` is better by id of the item, as a judge decided."""

    def __post_init__(self) -> None:
        if len(set(self.aspects)) < len(self.aspects) or not all(self.aspects):
            raise ConfigError(
                f"aspects are distinct names, not {', '.join(map(repr, self.aspects))}"
            )


class Arena:
    """Items, votes and media of an arena; all methods may be called from several threads.

    A rater learns neither models nor paths: items and media have names made with a secret key, and
    the order of the candidates stays here.
    """

    def __init__(
        self,
        given: ArenaInput,
        journal: VoteJournal,
        media: MediaStore,
        key: str,
        config: ArenaConfig,
    ) -> None:
        """Restore the votes of a journal.

        Args:
            given: Items.
            journal: Votes so far; new ones are appended.
            media: Media of the items.
            key: Secret key of the names of items.
            config: Settings.

        Raises:
            ConfigError: The journal has votes on items of the same ids with other content.
        """
        self.config = config
        self.media = media
        self.broken: dict[str, str] = {}
        """Reason by id of an item that cannot be shown."""
        self._items = {item.id: item for item in (*given.items, *given.gold)}
        self._asked = [item.id for item in given.items]
        self._key = key.encode()
        names = [*self._items, *(item + REPEAT for item in self._asked)]
        self._public = {name: self._public_name(name) for name in names}
        self._names = {public: name for name, public in self._public.items()}
        self._journal = journal
        self._lock = threading.Lock()
        self._votes: dict[tuple[str, str], Vote] = {}
        self._queue = VoteQueue(self._asked, [item.id for item in given.gold], config.queue)
        for vote in journal.restored:
            self._count(vote)
        check_votes(self._items.values(), self._votes.values())
        self._standings_lock = threading.Lock()
        self._standings: tuple[object, dict[str, Any]] = (None, {})

    @property
    def n_foreign(self) -> int:
        """Votes of the journal on items that the input lacks; they are kept."""
        return sum(1 for vote in self._votes.values() if vote.id not in self._public)

    def state(self, rater: str) -> dict[str, Any]:
        """The question that is open for a rater, the one after it, and the progress."""
        turn = self._issue(rater)
        following = None
        if turn:
            with self._lock:
                following = self._queue.following(rater, turn, time.monotonic())
        return {
            "item": self._turn_row(turn) if turn else None,
            "next": self._turn_row(following) if following else None,
            "progress": self._progress(rater),
            "title": self.config.title,
            "rater": rater,
        }

    def vote(
        self, rater: str, public: str, side: Side, stars: Stars, seconds: float
    ) -> dict[str, Any]:
        """Write a vote of a rater into the journal; returns the progress.

        Args:
            rater: Name of the rater.
            public: Name of the question, as it was sent.
            side: The better candidate as the rater saw them, or another choice.
            stars: Stars by aspect.
            seconds: Time from showing the pair to the vote.

        Raises:
            RequestError: The rater has voted on it already, or it is not asked; nothing is written.
            DataError: The journal cannot be written; the vote is not in it.
        """
        if unknown := set(stars) - set(self.config.aspects):
            raise RequestError(422, "invalid", f"{len(unknown)} aspects are not asked")
        with self._lock:
            turn = self._turn(rater, public)
            if self._queue.has_voted(rater, turn.id):
                raise RequestError(409, "duplicate", "your vote on this pair is kept already")
            self._write(rater, turn, _choice(side, turn), stars, seconds)
        return {"progress": self._progress(rater)}

    def undo(self, rater: str) -> dict[str, Any]:
        """Take the last vote of a rater back and ask its question again; see `state`.

        Raises:
            RequestError: There is no vote to take back.
            DataError: The journal cannot be written; the vote stands.
        """
        with self._lock:
            name = self._queue.last(rater)
            turn = self._queue.turn(rater, name) if name else None
            if turn is None:
                raise RequestError(409, "nothing_to_undo", "there is no vote to take back")
            self._write(rater, turn, None, {}, 0.0)
        return self.state(rater)

    def standings(self) -> dict[str, Any]:
        """Standings of the models by the votes so far, and what raters are not told."""
        with self._lock:
            votes, broken = list(self._votes.values()), dict(self.broken)
            state = self._journal.n_rows, len(broken)
        with self._standings_lock:
            if self._standings[0] != state:
                self._standings = state, self._compute_standings(votes, broken)
            return self._standings[1]

    def _compute_standings(self, votes: list[Vote], broken: Mapping[str, str]) -> dict[str, Any]:
        items = [self._items[item] for item in self._asked]
        models = list(dict.fromkeys(model for item in items for model in item.models))
        needed = dict.fromkeys(set(self._asked) - set(broken), self.config.queue.votes)
        result = standings(votes, models, self.config.judge, needed=needed)
        disputed = [row["id"] for row in (result["judge"] or {}).get("disagreements", ())]
        return {
            "title": self.config.title,
            "standings": result,
            "broken": [{"id": item, "reason": reason} for item, reason in broken.items()],
            "media": {item: self._media_rows(item) for item in disputed if item in self._items},
        }

    def _media_rows(self, item: str) -> dict[str, Any]:
        example = self._items[item].example
        a, b = map(self._candidate_rows, example.candidates)
        return {"context": self._candidate_rows(example.context), "a": a, "b": b}

    def _issue(self, rater: str) -> Turn | None:
        """Lease a question whose media can be shown; those that cannot leave the queue."""
        while True:
            with self._lock:
                turn = self._queue.next(rater, time.monotonic())
            if turn is None:
                return None
            reason = self._media_error(self._items[turn.item])
            if not reason:
                return turn
            with self._lock:
                self._queue.remove(turn.item)
                self.broken[turn.item] = reason

    def _media_error(self, item: ArenaItem) -> str:
        for medium in item.example.media:
            try:
                self.media.file(self.media.name(medium))
            except MediaError as error:
                return str(error)
        return ""

    def _turn(self, rater: str, public: str) -> Turn:
        """The question of a name; called with the lock."""
        name = self._names.get(public)
        turn = self._queue.turn(rater, name) if name else None
        if turn is None or (turn.repeats and not self._queue.has_voted(rater, turn.repeats)):
            raise RequestError(409, "stale", "this pair is not asked any more; go on with the next")
        return turn

    def _write(
        self, rater: str, turn: Turn, choice: Choice | None, stars: Stars, seconds: float
    ) -> None:
        """Append a vote, or with None its withdrawal, and count it; called with the lock."""
        item = self._items[turn.item]
        if turn.order == "ba":
            stars = {name: (right, left) for name, (left, right) in stars.items()}
        vote = Vote(
            replace(item.example, id=turn.id),
            item.a,
            item.b,
            choice,
            rater,
            seconds,
            turn.order,
            datetime.now(UTC).isoformat(timespec="milliseconds"),
            stars,
            item.gold,
            turn.repeats,
        )
        self._journal.append(vote)
        self._count(vote)

    def _count(self, vote: Vote) -> None:
        self._votes.pop(vote.key, None)
        if vote.vote is None:
            self._queue.withdraw(vote.rater, vote.id, time.monotonic())
            return
        self._votes[vote.key] = vote
        if not self._queue.has_voted(vote.rater, vote.id):
            self._queue.add(vote.rater, vote.id)

    def _progress(self, rater: str) -> dict[str, Any]:
        with self._lock:
            progress = self._queue.progress(rater)
            last = self._queue.last(rater)
        return {
            "done": progress.votes,
            "total": progress.votes + progress.left,
            "undo": last is not None,
            "all_votes": progress.all_votes,
            "needed": progress.needed,
        }

    def _turn_row(self, turn: Turn) -> dict[str, Any]:
        example = self._items[turn.item].example
        left, right = example.candidates if turn.order == "ab" else example.candidates[::-1]
        return {
            "id": self._public[turn.id],
            "task": example.task.value,
            "prompt": example.prompt,
            "context": self._candidate_rows(example.context),
            "left": self._candidate_rows(left),
            "right": self._candidate_rows(right),
            "aspects": list(self.config.aspects),
            "criteria": example.criteria,
        }

    def _candidate_rows(self, candidate: Candidate) -> list[dict[str, str]]:
        parts = candidate if isinstance(candidate, tuple) else (candidate,)
        return [self._part_row(part) for part in parts]

    def _part_row(self, part: Image | Video | str) -> dict[str, str]:
        if isinstance(part, str):
            return {"kind": "text", "text": part}
        kind = "image" if isinstance(part, Image) else "video"
        return {"kind": kind, "url": f"/media/{self.media.name(part)}"}

    def _public_name(self, name: str) -> str:
        """Name of a question in a browser.

        It changes with the seed, which decides the sides, and with the candidates, so that an old
        page never votes on something else than it shows.
        """
        candidates = self._items[name.removesuffix(REPEAT)].example.candidates
        text = f"item {self.config.queue.seed} {name} {candidates!r}"
        digest = hmac.new(self._key, text.encode(errors="replace"), hashlib.sha256)
        return digest.hexdigest()[:32]


def _choice(side: Side, turn: Turn) -> Choice:
    if side not in ("left", "right"):
        return side
    return "a" if (side == "left") == (turn.order == "ab") else "b"
