"""Ratings: one image or video a row, with what every annotator gave it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example, Sample, Target
from unified_reward.core.verdicts import Scale, Winner
from unified_reward.data.sources.fields import (
    Fields,
    each,
    failed,
    medium,
    needed,
    number,
    read_tags,
    text,
)
from unified_reward.data.sources.source import Source
from unified_reward.data.sources.streams import Raw
from unified_reward.io.rows import Row


_UNIT = Scale(0.0, 1.0)
_AGREED = 2
"""Annotators who must see an element for it to count as shown."""


class _Rated(NamedTuple):
    score: float
    line: int
    sample: Sample


def read(rows: Iterable[Raw], source: Source, folder: Path) -> Iterator[Row]:
    """Read scores, or of each prompt the best against the worst where the source compares.

    A score is the mean over annotators, overall and by aspect. Of images of equal means the
    first counts, and two compared have the order of the file; comparing holds two rows of
    each prompt in memory.

    Options of the source:
        ``id`` and ``media``: how they are made of the columns, such as ``{model}/{id}.mp4``.
        ``overall``: column of the overall ratings; without it there are aspects alone.
        ``elements``: column of ratings 0 or 1 by element; each becomes an aspect, 1 where two
        annotators or more say so.
        ``annotators``: the fewest a row must have.

    Args:
        rows: The rows of the file.
        source: Whose they are.
        folder: Where relative media paths start.
    """
    scores = each(rows, lambda row: [_score(row, source, folder)])
    return _extremes(scores) if source.form == "compare" else scores


def _score(row: Fields, source: Source, folder: Path) -> Example:
    options = source.options
    try:
        name, path = (options[key].format_map(row) for key in ("id", "media"))
    except KeyError as error:
        raise DataError(f"nothing in column {error.args[0]}") from error
    overall, scale = options.get("overall"), source.scale or Scale(None, None)
    score = _mean(row, overall, scale, source) if overall else None
    aspects = {one.name: _mean(row, one.label, one.scale, source) for one in source.aspects}
    if "elements" in options:
        aspects |= _elements(needed(row, options["elements"]))
    sample = Sample(source.task, text(row, "prompt"), (medium(path, source.task, folder),), id=name)
    return Example.of(sample, Target(score, source.scale, aspects), tags=read_tags(row, source))


def _mean(row: Fields, column: str, scale: Scale, source: Source) -> float:
    values = _numbers(needed(row, column), scale)
    due = source.options.get("annotators", 1)
    if len(values) < due:
        raise DataError(f"{len(values)} annotators in column {column}, where {due} are due")
    return fmean(values)


def _elements(given: Any) -> dict[str, float]:
    if not isinstance(given, dict):
        raise DataError(f"ratings of elements are given by name, not as {str(given)[:40]!r}")
    return {
        name: float(_numbers(values, _UNIT).count(1.0) >= _AGREED) for name, values in given.items()
    }


def _numbers(given: Any, scale: Scale) -> list[float]:
    if not isinstance(given, list):
        raise DataError(f"ratings are a list, one of each annotator, not {str(given)[:40]!r}")
    return [number(one, scale) for one in given]


def _extremes(scores: Iterator[Row]) -> Iterator[Row]:
    ends: dict[str, tuple[_Rated, _Rated]] = {}
    for row in scores:
        if not isinstance(row.content, Example):
            yield row
            continue
        sample = row.content.sample
        rated = _Rated(row.content.target.score or 0.0, row.line, sample)
        worst, best = ends.get(sample.prompt, (rated, rated))
        worst = rated if rated.score < worst.score else worst
        best = rated if rated.score > best.score else best
        ends[sample.prompt] = worst, best
    for prompt, (worst, best) in ends.items():
        if worst is best:
            yield failed(best.line, f"no two of prompt {prompt[:40]!r} differ in their mean rating")
            continue
        first, second = sorted((worst, best), key=lambda one: one.line)
        winner: Winner = "first" if first is best else "second"
        candidates = (*first.sample.candidates, *second.sample.candidates)
        name = f"{first.sample.id}:{second.sample.id}"
        sample = Sample(first.sample.task, prompt, candidates, id=name)
        yield Row(first.line, name, Example.of(sample, Target(winner=winner)))
