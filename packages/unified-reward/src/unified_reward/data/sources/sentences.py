"""Sentences said of several pictures, of each truly or falsely: a true one beats a false one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example, Image, Sample, Target, Video
from unified_reward.core.verdicts import Failed
from unified_reward.data.sources.fields import Fields, failed, identity, medium, text
from unified_reward.data.sources.source import Source
from unified_reward.data.sources.streams import Raw
from unified_reward.io.rows import Row


_TRUTHS = {"true": True, "false": False}


class _Said(NamedTuple):
    line: int
    place: str
    picture: Image | Video
    is_true: bool


def read(rows: Iterable[Raw], source: Source, folder: Path) -> Iterator[Row]:
    """Read rows ``{"sentence", "label", "identifier": "n-m"}``, m counting the pictures of n.

    Every picture of which a sentence is true is compared with every one of which it is false, in
    the order of the file, with the id ``<n>:<m>-<m>``. Holds the rows in memory.

    Options of the source:
        ``media``: where a picture may lie, such as ``images/{directory}/dev-{identifier}-0.png``;
            the first place where there is one, else the last.

    Args:
        rows: The rows of the file.
        source: Whose they are.
        folder: Where relative media paths start.
    """
    sentences: dict[tuple[str, str], list[_Said]] = {}
    for line, value in rows:
        try:
            if isinstance(value, Failed):
                raise DataError(value.error)
            number, _, place = identity(value, "identifier").partition("-")
            label = text(value, "label").lower()
            if label not in _TRUTHS:
                raise DataError(f"a label is true or false, not {label[:40]!r}")
            said = _Said(line, place, _picture(value, source, folder), _TRUTHS[label])
            sentences.setdefault((number, text(value, "sentence")), []).append(said)
        except DataError as error:
            yield failed(line, str(error))
    for (number, sentence), pictures in sentences.items():
        for one, other in combinations(pictures, 2):
            if one.is_true != other.is_true:
                name = f"{number}:{one.place}-{other.place}"
                sample = Sample(source.task, sentence, (one.picture, other.picture), id=name)
                target = Target(winner="first" if one.is_true else "second")
                yield Row(one.line, name, Example.of(sample, target))


def _picture(row: Fields, source: Source, folder: Path) -> Image | Video:
    try:
        places = [one.format_map(row) for one in source.options["media"]]
    except KeyError as error:
        raise DataError(f"nothing in column {error.args[0]}") from error
    there = [one for one in places if (folder / one).is_file()]
    return medium((there or places[-1:])[0], source.task, folder)
