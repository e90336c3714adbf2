"""Votes of an arena: one comparison an item by the majority of its votes, or scores from stars.

Rows are those of `io.vote_rows`. Items that test attention, gold ones and repeats, are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example, Sample, Target
from unified_reward.core.verdicts import Failed, Scale
from unified_reward.data.sources.fields import failed
from unified_reward.data.sources.source import Source
from unified_reward.data.sources.streams import Raw
from unified_reward.io.rows import Row
from unified_reward.io.vote_rows import (
    Vote,
    count_votes,
    has_same_outcome,
    last_votes,
    majority,
    parse_vote,
)


STARS = Scale(1.0, 5.0)


def read(rows: Iterable[Raw], source: Source, folder: Path) -> Iterator[Row]:
    """Join the votes of every item to one comparison, see `join_votes`.

    An item without a vote that counts is a row that cannot be used; one whose votes were all taken
    back is none. All votes are held in memory, and records come after the last row.

    Args:
        rows: The rows of the file.
        source: Unused, since every row names its task.
        folder: Where relative media paths start.
    """
    lines: dict[str, int] = {}
    votes: list[Vote] = []
    yield from _gather(rows, folder, votes, lines)
    for name, voted in _by_item(votes).items():
        try:
            yield Row(lines[name], name, join_votes(voted))
        except DataError as error:
            yield failed(lines[name], str(error))


def read_stars(rows: Iterable[Raw], source: Source, folder: Path) -> Iterator[Row]:
    """Join the stars of every candidate, in all its items, to a mean by aspect on 1 to 5.

    Candidates without stars are left out. The arguments are those of `read`.
    """
    lines: dict[str, int] = {}
    votes: list[Vote] = []
    yield from _gather(rows, folder, votes, lines)
    rated: dict[Sample, _Rated] = {}
    for vote in (vote for voted in _by_item(votes).values() for vote in voted if vote.aspects):
        for i, single in enumerate(vote.example.sample.split()):
            tags = dict(vote.example.tags) | {"model": (vote.a, vote.b)[i]}
            named = Example.of(replace(single, id=f"{vote.id}:{'ab'[i]}"), tags=tags)
            entry = rated.setdefault(replace(single, id=""), _Rated(lines[vote.id], named))
            entry.raters.add(vote.rater)
            for aspect, stars in vote.aspects.items():
                entry.stars[aspect].append(stars[i])
    for entry in rated.values():
        means = {aspect: fmean(stars) for aspect, stars in entry.stars.items()}
        target = Target(scale=STARS, aspects=means)
        content = replace(entry.example, target=target, raters=len(entry.raters))
        yield Row(entry.line, content.id, content)


@dataclass
class _Rated:
    """A candidate with its stars, and the first line about it."""

    line: int
    example: Example
    raters: set[str] = field(default_factory=set[str])
    stars: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))


def join_votes(votes: Sequence[Vote]) -> Example:
    """Join the votes on one item to a comparison.

    The winner is that of `io.vote_rows.majority`. ``target.aspects`` has the share of raters that
    gave the first candidate more stars, equal ones half; ``raters`` the votes by choice; and the
    tag ``tie_kind`` is ``both_bad`` where every vote for a tie is.

    Args:
        votes: Votes of different raters on the same item, at least one.

    Raises:
        DataError: None of them says anything.
    """
    first = votes[0]
    counts = count_votes(votes)
    winner = majority(counts)
    if winner is None:
        raise DataError(f"item {first.id!r} has no vote that counts: {len(votes)} x cannot_tell")
    tags = dict(first.example.tags) | {"model_first": first.a, "model_second": first.b}
    if winner == "tie" and counts["both_bad"] and not counts["tie"]:
        tags["tie_kind"] = "both_bad"
    shares: defaultdict[str, list[float]] = defaultdict(list)
    for vote in votes:
        for aspect, (a, b) in vote.aspects.items():
            shares[aspect].append(((a > b) - (a < b) + 1) / 2)
    aspects = {aspect: fmean(given) for aspect, given in shares.items()}
    target = Target(winner=winner, aspects=aspects)
    return replace(first.example, target=target, raters=counts, tags=tags)


def trusted_raters(votes: Iterable[Vote], min_gold: float = 0.8) -> set[str]:
    """Raters who voted right on enough gold items.

    Args:
        votes: Votes, gold ones among them.
        min_gold: Lowest share of right votes on gold items, in [0, 1]. Raters without a gold item
            are trusted, as nothing is known against them.
    """
    right: dict[str, list[bool]] = {}
    for vote in votes:
        points = right.setdefault(vote.rater, [])
        if vote.gold is not None:
            points.append(has_same_outcome(vote.vote, vote.gold))
    return {name for name, points in right.items() if not points or fmean(points) >= min_gold}


def _gather(
    rows: Iterable[Raw], folder: Path, votes: list[Vote], lines: dict[str, int]
) -> Iterator[Row]:
    """Fill ``votes``, and the first line of each item; give the rows that cannot be used."""
    first: dict[str, Vote] = {}
    for line, value in rows:
        try:
            if isinstance(value, Failed):
                raise DataError(value.reason)
            vote = parse_vote(value, folder)
            known = first.setdefault(vote.id, vote)
            if (vote.example.sample, vote.a, vote.b) != (known.example.sample, known.a, known.b):
                raise DataError(f"item {vote.id!r} has other content in row {lines[vote.id]}")
        except DataError as error:
            yield failed(line, str(error))
        else:
            lines.setdefault(vote.id, line)
            votes.append(vote)


def _by_item(votes: Iterable[Vote]) -> dict[str, list[Vote]]:
    """Votes that count, by item, without those that test attention."""
    items: defaultdict[str, list[Vote]] = defaultdict(list)
    for vote in last_votes(votes):
        if vote.gold is None and not vote.repeats:
            items[vote.id].append(vote)
    return items
