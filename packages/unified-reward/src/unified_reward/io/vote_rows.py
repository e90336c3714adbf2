"""Votes of people on pairs, as rows of JSON, and back: the file that an arena appends to.

A row is self-contained: it names the models and holds the prompt and both candidates, so that the
file alone can teach a judge.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Failed, Winner
from unified_reward.io.rows import parts_rows, read_row
from unified_reward.io.text import parse_json, read_lines
from unified_reward.io.validation import describe_errors


Choice = Literal["a", "b", "tie", "both_bad", "cannot_tell"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
WINNERS: Mapping[Choice, Winner] = {"a": "first", "b": "second", "tie": "tie", "both_bad": "tie"}
WIN_SHARE: Mapping[str, float] = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}
"""Share of a win that a vote gives ``a``; ``cannot_tell`` says nothing."""
Stars = Annotated[int, Field(ge=1, le=5)]


@dataclass(frozen=True)
class Vote:
    """A vote of a rater on a pair, or the withdrawal of one."""

    example: Example
    """The pair: prompt, context and two candidates, a then b; its id is that of the vote's item."""
    a: str
    """Name of the model of the first candidate; of its file where models are unknown."""
    b: str
    vote: Choice | None
    """None takes the rater's earlier vote on the item back."""
    rater: str
    seconds: float
    """Time from showing the pair to the vote, >= 0."""
    order: Literal["ab", "ba"]
    """Candidates as the rater saw them, from left to right."""
    at: str
    """Time of the vote in UTC, ISO 8601."""
    aspects: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Stars of ``a`` and of ``b`` by aspect, 1 to 5."""
    gold: Choice | None = None
    """Known right vote of an item that tests attention; None for any other."""
    repeats: str = ""
    """Id of the item that this one repeats, to test attention; empty for any other."""

    @property
    def id(self) -> str:
        """Id of the item."""
        return self.example.id

    @property
    def key(self) -> tuple[str, str]:
        """Item and rater, of which only the last vote counts."""
        return self.id, self.rater

    def row(self, folder: Path) -> dict[str, Any]:
        """Write the vote as a row of a file in ``folder``.

        Raises:
            DataError: A medium is in memory, not in a file.
        """
        example = self.example
        return {
            "id": example.id,
            "a": self.a,
            "b": self.b,
            "prompt": example.prompt,
            "task": example.task.value,
            "vote": self.vote,
            "aspects": {name: list(stars) for name, stars in self.aspects.items()},
            "rater": self.rater,
            "seconds": self.seconds,
            "shown": self.order,
            "at": self.at,
            "gold": self.gold,
            "repeats": self.repeats,
            "candidates": parts_rows(example.candidates, folder),
            "context": parts_rows(example.context, folder),
            "criteria": example.criteria,
            "tags": dict(example.tags),
        }


class _VoteRow(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    a: str
    b: str
    vote: Choice | None
    aspects: dict[str, tuple[Stars, Stars]] = Field(default_factory=dict[str, tuple[int, int]])
    rater: str
    seconds: float = Field(default=0.0, ge=0)
    order: Literal["ab", "ba"] = Field(default="ab", alias="shown")
    at: str = ""
    gold: Choice | None = None
    repeats: str = ""


_EXAMPLE_KEYS = ("id", "task", "prompt", "candidates", "context", "criteria", "tags")


def read_votes(path: Path) -> list[Vote]:
    """Read the votes of a file that count, see `last_votes`.

    Args:
        path: JSONL; a torn last line, as a kill leaves it, is left out.

    Raises:
        DataError: The file cannot be read, or a line is no vote; names the line.
    """
    return last_votes(read_all_votes(path))


def last_votes(votes: Iterable[Vote]) -> list[Vote]:
    """Votes that count: the last of each rater on each item, if not taken back."""
    last: dict[tuple[str, str], Vote] = {}
    for vote in votes:
        last.pop(vote.key, None)
        if vote.vote is not None:
            last[vote.key] = vote
    return list(last.values())


def read_all_votes(path: Path) -> Iterator[Vote]:
    """Iterate over all rows of a file of votes, in order, also those that were taken back.

    Raises:
        DataError: As of `read_votes`.
    """
    for line, _, raw in read_lines(path):
        try:
            row = parse_json(raw)
        except ValueError as error:
            if not raw.endswith(b"\n"):
                return
            raise DataError(f"{path} line {line}: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path} line {line} is not an object")
        try:
            vote = parse_vote(row, path.parent)
        except DataError as error:
            raise DataError(f"{path} line {line} is no vote: {error}") from error
        yield vote


def parse_vote(row: Mapping[str, Any], folder: Path) -> Vote:
    """Parse a row as a vote; relative paths of media start at ``folder``.

    Raises:
        DataError: It is no vote; names the fault.
    """
    try:
        fields = _VoteRow.model_validate(row)
    except ValidationError as error:
        raise DataError(describe_errors(error, "row", 3)) from error
    about = {key: row[key] for key in _EXAMPLE_KEYS if row.get(key) is not None}
    content = read_row(json.dumps(about, allow_nan=False).encode(), folder).content
    if isinstance(content, Failed):
        raise DataError(content.reason)
    given = fields.model_dump(include={"a", "b", "vote", "rater", "seconds", "at", "aspects"})
    return Vote(content, **given, order=fields.order, gold=fields.gold, repeats=fields.repeats)


def has_same_outcome(vote: Choice | None, other: Choice | None) -> bool:
    """True for votes of one outcome; ``both_bad`` is a tie.

    >>> has_same_outcome("tie", "both_bad"), has_same_outcome("tie", "cannot_tell")
    (True, False)
    """
    return WIN_SHARE.get(str(vote)) == WIN_SHARE.get(str(other))


def count_votes(votes: Iterable[Vote]) -> dict[str, int]:
    """Votes by choice, and their number ``n``: the ``raters`` of an example made of votes."""
    counts = Counter(vote.vote for vote in votes)
    return {"n": counts.total(), **{choice: counts[choice] for choice in CHOICES}}


def vote_counts(raters: Any) -> dict[Choice, int] | None:
    """Votes by choice of an example whose ``raters`` are of `count_votes`; None for any other."""
    if not isinstance(raters, Mapping):
        return None
    counts: Mapping[Any, Any] = raters
    known = {choice: counts.get(choice) for choice in CHOICES}
    is_whole = all(type(count) is int and count >= 0 for count in known.values())
    return cast("dict[Choice, int]", known) if is_whole else None


def majority(counts: Mapping[Any, int]) -> Winner | None:
    """Outcome with most of the votes that say anything; an even split is a tie.

    None without such a vote; ``tie`` and ``both_bad`` are votes for a tie.

    >>> majority({"a": 2, "b": 1, "tie": 1, "both_bad": 1})
    'tie'
    """
    outcomes: Counter[Winner] = Counter()
    for choice, winner in WINNERS.items():
        outcomes[winner] += counts.get(choice, 0)
    (winner, most), (_, second), _ = outcomes.most_common()
    if not most:
        return None
    return "tie" if most == second else winner


def mirrored_raters(raters: Any) -> Any:
    """Return the votes by choice with the two candidates exchanged; anything else as it is."""
    counts = vote_counts(raters)
    return raters if counts is None else {**raters, "a": counts["b"], "b": counts["a"]}


def win_share(raters: Any) -> float | None:
    """Mean share of a win that the votes behind an example give its first candidate.

    None where ``raters`` has no votes by choice that say anything.

    >>> win_share({"n": 4, "a": 2, "b": 0, "tie": 1, "both_bad": 0, "cannot_tell": 1})
    0.8333333333333334
    """
    counts = vote_counts(raters) or {}
    clear = {choice: n for choice, n in counts.items() if choice in WIN_SHARE}
    n = sum(clear.values())
    return sum(WIN_SHARE[choice] * count for choice, count in clear.items()) / n if n else None
