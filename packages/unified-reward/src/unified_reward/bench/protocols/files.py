"""Where the official files of benchmarks lie in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from unified_reward.bench.benchmark import BenchmarkOptions, item_hash
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Example
from unified_reward.data.sources import read_source
from unified_reward.io.rows import Row


def official_files(
    source: str, *patterns: str, media: str = ""
) -> Callable[[Path | None, BenchmarkOptions], Iterator[Row]]:
    """The rows of a source from the first of these patterns that names files in a folder.

    Args:
        source: Of `data.sources`.
        patterns: Of files, from the folder on.
        media: Where its pictures and clips lie, from the folder on.
    """

    def rows(folder: Path | None, how: BenchmarkOptions) -> Iterator[Row]:
        if folder is None:
            raise ConfigError(f"say where the files of {source} lie: --data FOLDER, or a hub id")
        for pattern in patterns:
            files = sorted(folder.glob(pattern))
            if files:
                found = (
                    row for file in files for row in read_source(file, source, media=folder / media)
                )
                return _sampled(found, how)
        raise DataError(f"{folder} holds no {' or '.join(patterns)}")

    return rows


def _sampled(rows: Iterator[Row], how: BenchmarkOptions) -> Iterator[Row]:
    """As many as are wanted, drawn by id and seed, in their order; broken rows are kept."""
    if how.limit is None:
        return rows
    read = [*rows]
    names = [row.id for row in read if isinstance(row.content, Example)]
    drawn = {*sorted(names, key=lambda name: item_hash(name, how.seed))[: how.limit]}
    return (row for row in read if row.id in drawn or not isinstance(row.content, Example))
