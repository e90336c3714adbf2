"""Rankings: several images or videos of one prompt, each with its rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example, Sample, Target
from unified_reward.core.verdicts import Winner
from unified_reward.data.sources.fields import Fields, each, identity, medium, needed, text
from unified_reward.data.sources.source import Source
from unified_reward.data.sources.streams import Raw
from unified_reward.io.rows import Row


def read(rows: Iterable[Raw], source: Source, folder: Path) -> Iterator[Row]:
    """Read rows ``{"id", "prompt", "generations": [path], "ranking": [rank]}``.

    Rank 1 is the best; ranks may repeat and leave gaps. Every two of a row become a comparison
    with the id ``<id>:<i>-<j>``, their places counted from 0; of equal ranks, a tie.

    Args:
        rows: The rows of the file.
        source: Whose they are.
        folder: Where relative media paths start.
    """
    return each(rows, lambda row: _pairs(row, source, folder))


def _pairs(row: Fields, source: Source, folder: Path) -> Iterator[Example]:
    name, prompt = identity(row, "id"), text(row, "prompt")
    columns = source.options.get("columns", {})
    given, ranks = (_list(row, columns.get(one, one)) for one in ("generations", "ranking"))
    media = [medium(one, source.task, folder) for one in given]
    if len(media) != len(ranks) or len(media) < 2:
        raise DataError(f"{len(media)} generations and {len(ranks)} ranks; each has one, of two up")
    wrong = [rank for rank in ranks if type(rank) is not int or rank < 1]
    if wrong:
        raise DataError(f"a rank is a whole number from 1, the best, not {wrong[0]!r}")
    if len(set(media)) < len(media):
        raise DataError("a generation occurs twice in its ranking")
    for i, j in combinations(range(len(media)), 2):
        first, second = ranks[i], ranks[j]
        winner: Winner = "tie" if first == second else "first" if first < second else "second"
        sample = Sample(source.task, prompt, (media[i], media[j]), id=f"{name}:{i}-{j}")
        yield Example.of(sample, Target(winner=winner), tags={"ranking": name})


def _list(row: Fields, column: str) -> list[Any]:
    value = needed(row, column)
    if not isinstance(value, list):
        raise DataError(f"column {column} holds {str(value)[:40]!r}, not a list")
    return value
