"""Preferences: two candidates a row and which is better, overall or by aspect."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example, Sample, Target
from unified_reward.core.verdicts import WIN_SHARES, Winner
from unified_reward.data.sources.fields import (
    Fields,
    candidate,
    each,
    given,
    identity,
    medium,
    needed,
    read_tags,
    text,
)
from unified_reward.data.sources.source import Source
from unified_reward.data.sources.streams import Raw
from unified_reward.io.rows import Row


def read(rows: Iterable[Raw], source: Source, folder: Path) -> Iterator[Row]:
    """Read one comparison a row.

    Options of the source:
        ``columns``: where ``id``, ``prompt``, ``first``, ``second`` (or ``pair``, a list of the
        two), ``context`` and ``winner`` are, each a column or several of which the first that
        holds something is taken.
        ``words``: what a verdict is called, and the winner it names; the name of a value that is
        no text is its JSON.
        ``tags``: columns kept as tags, by the name of the tag.
        ``always``: the winner of every row, instead of words.
        ``group``: a tag whose value is put before the id.
        ``repeated_ids``: true where one id names several rows; the second gets the suffix ``:2``.

    Aspects of the source are columns with the same words; a row without an overall verdict has
    no winner. A row without an id gets one from its content.

    Args:
        rows: The rows of the file.
        source: Whose they are.
        folder: Where relative media paths start.
    """
    seen: Counter[str] = Counter()

    def make(row: Fields) -> list[Example]:
        name = identity(row, *_columns(source, "id"))
        tags = read_tags(row, source)
        if "group" in source.options:
            name = f"{_group(tags, source)}:{name}"
        if source.options.get("repeated_ids"):
            seen[name] += 1
            name += f":{seen[name]}" if seen[name] > 1 else ""
        return [Example.of(_sample(row, source, folder, name), _target(row, source), tags=tags)]

    return each(rows, make)


def _group(tags: Mapping[str, str], source: Source) -> str:
    group = source.options["group"]
    if group not in tags:
        columns = source.options["tags"][group]
        names = columns if isinstance(columns, str) else " or ".join(columns)
        raise DataError(f"nothing in column {names}")
    return tags[group]


def _columns(source: Source, part: str) -> tuple[str, ...]:
    names = source.options["columns"].get(part, part)
    return (names,) if isinstance(names, str) else tuple(names)


def _sample(row: Fields, source: Source, folder: Path, name: str) -> Sample:
    columns = source.options["columns"]
    if "pair" in columns:
        two = needed(row, columns["pair"])
        if not isinstance(two, list) or len(two) != 2:
            raise DataError(f"column {columns['pair']} holds {str(two)[:40]!r}, not a list of two")
    else:
        two = [needed(row, *_columns(source, part)) for part in ("first", "second")]
    candidates = tuple(candidate(one, source.task, folder) for one in two)
    context = ()
    if "context" in columns:
        context = (medium(needed(row, *_columns(source, "context")), source.task, folder),)
    prompt = text(row, *_columns(source, "prompt"))
    return Sample(source.task, prompt, candidates, context, id=name)


def _target(row: Fields, source: Source) -> Target:
    if "always" in source.options:
        return Target(winner=source.options["always"])
    words = source.options["words"]
    verdict = given(row, *_columns(source, "winner"))
    by_aspect = {one.name: given(row, one.label) for one in source.aspects}
    shares = {
        name: WIN_SHARES[_winner(word, words)]
        for name, word in by_aspect.items()
        if word is not None
    }
    if verdict is None and not shares:
        columns = (*_columns(source, "winner"), *(one.label for one in source.aspects))
        raise DataError(f"no verdict in column {' or '.join(columns)}")
    winner = None if verdict is None else _winner(verdict, words)
    return Target(winner=winner, aspects=shares)


def _winner(verdict: Any, words: Mapping[str, Winner]) -> Winner:
    word = verdict if isinstance(verdict, str) else json.dumps(verdict, default=repr)
    if word not in words:
        raise DataError(f"a verdict is {', '.join(words)}, not {word[:40]}")
    return words[word]
