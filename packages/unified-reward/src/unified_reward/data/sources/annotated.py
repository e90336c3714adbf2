"""A user's own annotations: ratings or votes of several people, one a row, and their agreement."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from unified_reward.core.errors import DataError
from unified_reward.core.extensions import extra
from unified_reward.core.samples import Example, Sample, Target, Task
from unified_reward.core.verdicts import Failed, Scale, Winner
from unified_reward.data.sources.fields import (
    UNDERSTANDING,
    Fields,
    candidate,
    failed,
    given,
    identity,
    medium,
    needed,
    number,
    text,
)
from unified_reward.data.sources.source import Source
from unified_reward.data.sources.streams import Raw
from unified_reward.io.rows import Row


_VOTES: dict[str, Winner] = {"a": "first", "tie": "tie", "b": "second"}
_ASPECT = "aspect_"


class Agreement(NamedTuple):
    """Agreement of annotators about the same items."""

    alpha: float | None
    """Krippendorff's alpha: 1 for full agreement, 0 for chance; None where it is undefined."""
    reason: str
    """Reason why it is undefined; empty where it is not."""
    items: int
    annotators: int
    ratings: int


@dataclass
class _Item:
    line: int
    sample: Sample
    annotators: set[str] = field(default_factory=set[str])
    counts: defaultdict[str, Counter[Any]] = field(default_factory=lambda: defaultdict(Counter))
    """Counts of the values given, by aspect; the overall rating has the empty name."""


def read(rows: Iterable[Raw], source: Source, folder: Path) -> Iterator[Row]:
    """Join the rows of every item: the mean of its ratings, or the majority of its votes.

    A rating has the columns ``annotator``, ``score`` and ``aspect_<name>``, all on the scale of
    the source, any may be empty; beside a score, means of aspects are moved to [0, 1]. A vote has
    ``annotator`` and ``vote``: a, b or tie, and an even split is a tie. Both name their item:

    - generation: ``prompt`` and ``image`` or ``video``;
    - editing: the same and ``source_image``;
    - understanding: ``image`` or ``video``, the question as ``prompt``, and ``answer``.

    Votes have two of what is judged, such as ``image_a`` and ``image_b``. Rows of one ``id`` are
    one item, and without ids rows of the same content. Rows may lie in any order, so the items,
    their annotators and counts are held in memory, and records come after the last row. The option
    ``annotators`` of the source is the fewest an item must have.

    Args:
        rows: The rows of the file.
        source: Task, form and scale.
        folder: Where relative media paths start.
    """
    items: dict[str, _Item] = {}
    yield from _gather(rows, source, folder, items)
    due = source.options.get("annotators", 1)
    for name, item in items.items():
        if len(item.annotators) < due:
            yield failed(
                item.line,
                f"{len(item.annotators)} annotators of item {name!r}, where {due} are due",
            )
        else:
            raters = len(item.annotators)
            content = Example.of(item.sample, _target(item, source), raters=raters)
            yield Row(item.line, name, content)


def agreement(rows: Iterable[Raw], source: Source, *, aspect: str = "") -> Agreement:
    """Krippendorff's alpha (2011) over the rows that ``read`` can use.

    Differences of ratings count by their square (interval level), votes are equal or not
    (nominal level). Memory grows with the number of items times the square of the number of
    different ratings.

    Args:
        rows: The rows of the file.
        source: Task, form and scale.
        aspect: Whose ratings; empty for the overall ones.
    """
    items: dict[str, _Item] = {}
    for _ in _gather(rows, source, Path(), items):
        pass
    judged = [(item, item.counts[aspect]) for item in items.values() if item.counts.get(aspect)]
    people = {name for item, _ in judged for name in item.annotators}
    n = len(judged), len(people), sum(counts.total() for _, counts in judged)
    level = "interval" if source.form == "score" else "nominal"
    return Agreement(*krippendorff_alpha([counts for _, counts in judged], level), *n)


def krippendorff_alpha(
    items: Iterable[Counter[Any]], level: Literal["interval", "nominal"]
) -> tuple[float | None, str]:
    """Krippendorff's alpha (2011), or None and the reason why it is undefined.

    Args:
        items: Number of annotators by value, of each item.
        level: Differences of values count by their square, or values are equal or not.
    """
    shared = [counts for counts in items if counts.total() > 1]
    values = sorted({value for counts in shared for value in counts})
    if len(values) < 2:
        return (
            None,
            "everyone says the same of everything" if shared else "no item was judged twice",
        )
    with extra("bench"):
        import krippendorff

    alpha = krippendorff.alpha(
        value_counts=np.array([[counts[value] for value in values] for counts in shared]),
        value_domain=values,
        level_of_measurement=level,
    )
    return float(alpha), ""


def _gather(
    rows: Iterable[Raw], source: Source, folder: Path, items: dict[str, _Item]
) -> Iterator[Row]:
    """Fill ``items``, and give the rows that cannot be used."""
    for line, value in rows:
        try:
            if isinstance(value, Failed):
                raise DataError(value.reason)
            sample = _sample(value, source, folder)
            counts = _ratings(value, source) if source.form == "score" else {"": _vote(value)}
            _add(items, line, sample, str(needed(value, "annotator")), counts)
        except DataError as error:
            yield failed(line, str(error))


def _add(
    items: dict[str, _Item], line: int, sample: Sample, annotator: str, ratings: dict[str, Any]
) -> None:
    item = items.setdefault(sample.id, _Item(line, sample))
    if item.sample != sample:
        raise DataError(f"id {sample.id!r} has other content in row {item.line}")
    if annotator in item.annotators:
        raise DataError(f"annotator {annotator!r} judged item {sample.id!r} already")
    item.annotators.add(annotator)
    for name, value in ratings.items():
        item.counts[name][value] += 1


def _sample(row: Fields, source: Source, folder: Path) -> Sample:
    task = source.task
    kind = "video" if task in (Task.VIDEO_GENERATION, Task.VIDEO_UNDERSTANDING) else "image"
    judged = "answer" if task in UNDERSTANDING else kind
    columns = [judged] if source.form == "score" else [f"{judged}_a", f"{judged}_b"]
    about = [kind] if task in UNDERSTANDING else []
    about += ["source_image"] if task is Task.IMAGE_EDITING else []
    content = {column: needed(row, column) for column in ("prompt", *about, *columns)}
    name = identity({"id": given(row, "id"), **content}, "id")
    return Sample(
        task,
        text(row, "prompt"),
        tuple(candidate(content[column], task, folder) for column in columns),
        tuple(medium(content[column], task, folder) for column in about),
        id=name,
    )


def _ratings(row: Fields, source: Source) -> dict[str, float]:
    columns = {"": "score"}
    columns |= {
        name.removeprefix(_ASPECT): name
        for name in row
        if name.removeprefix(_ASPECT) not in ("", name)
    }
    scale = source.scale or Scale(None, None)
    values = {name: given(row, column) for name, column in columns.items()}
    ratings = {name: number(value, scale) for name, value in values.items() if value is not None}
    if not ratings:
        raise DataError(f"nothing in column {' or '.join(columns.values())}")
    return ratings


def _vote(row: Fields) -> Winner:
    vote = text(row, "vote")
    if vote not in _VOTES:
        raise DataError(f"a vote is {', '.join(_VOTES)}, not {vote[:40]!r}")
    return _VOTES[vote]


def _target(item: _Item, source: Source) -> Target:
    if source.form == "compare":
        (most, n), *others = item.counts[""].most_common()
        return Target(winner="tie" if any(n == other for _, other in others) else most)
    means = {
        name: sum(value * n for value, n in counts.items()) / counts.total()
        for name, counts in item.counts.items()
    }
    score, scale = means.pop("", None), source.scale
    if score is not None and scale is not None:
        means = {name: scale.share(one) or 0.0 for name, one in means.items()}
    return Target(score, scale, means)
