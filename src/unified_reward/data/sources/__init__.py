"""Published sets of human judgements, read row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from unified_reward.data.sources import annotated, preferences, rankings, ratings, sharegpt
from unified_reward.data.sources.streams import raw_rows
from unified_reward.data.sources.table import SOURCES, Source
from unified_reward.records import Row
from unified_reward.types import ConfigError, DataError, Failed


_LAYOUTS = {
    "annotated": annotated.read,
    "preferences": preferences.read,
    "rankings": rankings.read,
    "ratings": ratings.read,
    "sharegpt": sharegpt.read,
}


def read_source(path: Path, name: str, *, media: Path | None = None) -> Iterator[Row]:
    """Read a published file, in constant memory but for the ids.

    A row that cannot be used, or whose id stands above already, is ``Failed`` and the others go
    on. Whether the media exist is not looked at.

    Args:
        path: The file as published.
        name: The source it belongs to, one of ``SOURCES``.
        media: Where relative media paths start; None for the folder of the file.

    Raises:
        ConfigError: No such source; the message lists them.
        DataError: The file cannot be opened, or holds no rows; raised by the first row.
    """
    if name not in SOURCES:
        raise ConfigError(f"no source {name!r}; there are {', '.join(sorted(SOURCES))}")
    source = SOURCES[name]
    return _named(_LAYOUTS[source.layout](raw_rows(path), source, media or path.parent), name)


def _named(rows: Iterator[Row], name: str) -> Iterator[Row]:
    seen: set[str] = set()
    for row in rows:
        content = row.content
        if isinstance(content, Failed):
            yield row
        elif row.id in seen:
            told = f"id {row.id!r} stands above already; ids must differ"
            yield Row(row.line, f"row {row.line}", Failed(told, DataError(told)))
        else:
            seen.add(row.id)
            yield Row(row.line, row.id, replace(content, source=name))


__all__ = ["SOURCES", "Source", "read_source"]
