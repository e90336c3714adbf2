"""Sentences about several images, true or false of each: a true one beats a false one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from unified_reward.core.errors import DataError
from unified_reward.core.paths import is_file
from unified_reward.core.samples import Example, Image, Sample, Target, Video
from unified_reward.core.verdicts import Failed
from unified_reward.data.sources.fields import Fields, failed, identity, medium, text
from unified_reward.data.sources.source import Source
from unified_reward.data.sources.streams import Raw
from unified_reward.io.rows import Row


_TRUTHS = {"true": True, "false": False}


class _Labelled(NamedTuple):
    line: int
    place: str
    image: Image | Video
    is_true: bool


def read(rows: Iterable[Raw], source: Source, folder: Path) -> Iterator[Row]:
    """Read rows ``{"sentence", "label", "identifier": "n-m"}``, m counting the images of n.

    Every image of which a sentence is true is compared with every image of which it is false, in
    the order of the file, with the id ``<n>:<m>-<m>``. Holds the rows in memory.

    Options of the source:
        ``media``: where an image may lie, such as ``images/{directory}/dev-{identifier}-0.png``;
            the first place where there is one, else the last.

    Args:
        rows: The rows of the file.
        source: Whose they are.
        folder: Where relative media paths start.
    """
    sentences: dict[tuple[str, str], list[_Labelled]] = {}
    for line, value in rows:
        try:
            if isinstance(value, Failed):
                raise DataError(value.reason)
            number, _, place = identity(value, "identifier").partition("-")
            label = text(value, "label").lower()
            if label not in _TRUTHS:
                raise DataError(f"a label is true or false, not {label[:40]!r}")
            labelled = _Labelled(line, place, _image(value, source, folder), _TRUTHS[label])
            sentences.setdefault((number, text(value, "sentence")), []).append(labelled)
        except DataError as error:
            yield failed(line, str(error))
    for (number, sentence), images in sentences.items():
        for first, second in combinations(images, 2):
            if first.is_true != second.is_true:
                name = f"{number}:{first.place}-{second.place}"
                sample = Sample(source.task, sentence, (first.image, second.image), id=name)
                target = Target(winner="first" if first.is_true else "second")
                yield Row(first.line, name, Example.of(sample, target))


def _image(row: Fields, source: Source, folder: Path) -> Image | Video:
    try:
        places = [place.format_map(row) for place in source.options["media"]]
    except KeyError as error:
        raise DataError(f"nothing in column {error.args[0]}") from error
    there = [place for place in places if is_file(folder / place)]
    return medium((there or places[-1:])[0], source.task, folder)
