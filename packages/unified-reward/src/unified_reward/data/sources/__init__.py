"""Published sets of human judgements, read row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import extensions, load_extension, wrong_type
from unified_reward.core.verdicts import Failed, Scale
from unified_reward.data.sources import (
    annotated,
    interleaved,
    preferences,
    rankings,
    ratings,
    sentences,
    sharegpt,
    votes,
)
from unified_reward.data.sources.source import Source
from unified_reward.data.sources.streams import raw_rows
from unified_reward.data.sources.table import SOURCES
from unified_reward.io.rows import Ids, Row


_LAYOUTS = {
    "annotated": annotated.read,
    "interleaved": interleaved.read,
    "preferences": preferences.read,
    "rankings": rankings.read,
    "ratings": ratings.read,
    "sentences": sentences.read,
    "sharegpt": sharegpt.read,
    "stars": votes.read_stars,
    "votes": votes.read,
}


def read_source(
    path: Path, name: str, *, media: Path | None = None, scale: Scale | None = None
) -> Iterator[Row]:
    """Read a published file, in constant memory but for the ids.

    A row that cannot be used, or whose id is a duplicate, is ``Failed`` and the others go
    on. Whether the media exist is not looked at.

    Args:
        path: The file as published.
        name: The source it belongs to, one of ``SOURCES`` or of another distribution.
        media: Where relative media paths start; None for the folder of the file.
        scale: Of a user's own ratings; a published source has its own.

    Raises:
        ConfigError: No such source (the message lists them), or a scale for a published one.
        DataError: The file cannot be opened, or holds no rows; raised by the first row.
    """
    source = source_of(name, scale)
    rows = raw_rows(path, source.options.get("rows", ""))
    read = _LAYOUTS[source.layout] if isinstance(source.layout, str) else source.layout
    return _named(read(rows, source, media or path.parent), name)


def source_of(name: str, scale: Scale | None = None) -> Source:
    """The row of a source in the table, with a user's own scale where ratings are theirs.

    Other distributions add a `Source` by an entry point of the group ``unified_reward.sources``.

    Raises:
        ConfigError: As in `read_source`.
    """
    source = SOURCES.get(name) or load_extension("sources", name)
    if source is None:
        known = ", ".join(sorted({*SOURCES, *extensions("sources")}))
        raise ConfigError(f"no source {name!r}; there are {known}")
    if not isinstance(source, Source) or not (callable(source.layout) or source.layout in _LAYOUTS):
        raise wrong_type("sources", name, "a Source with a reader", source)
    if scale is None:
        return source
    if source.layout != "annotated":
        raise ConfigError(f"{name} has its own scale, {source.scale or 'that of its votes'}")
    return replace(source, scale=scale)


def _named(rows: Iterator[Row], name: str) -> Iterator[Row]:
    ids = Ids("row")
    for row in rows:
        named = ids.checked(row, row.line)
        content = named.content
        yield (
            named
            if isinstance(content, Failed)
            else replace(named, content=replace(content, source=name))
        )


__all__ = ["SOURCES", "Source", "read_source", "source_of"]
