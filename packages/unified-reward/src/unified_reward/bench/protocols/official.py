"""Official files of a benchmark in a folder."""

from __future__ import annotations

import heapq
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
    """Reader of the rows of a source, for `Benchmark.read_rows`.

    Args:
        source: Name of a source (`data.sources`).
        patterns: Patterns of file names relative to the folder; the first that matches is used.
        media: Folder of its images and videos, relative to the folder.
    """

    def read_rows(folder: Path | None, options: BenchmarkOptions) -> Iterator[Row]:
        if folder is None:
            raise ConfigError(f"{source} needs --data, the folder of its files or their hub id")
        for pattern in patterns:
            files = sorted(folder.glob(pattern))
            if files:
                rows = (
                    row for file in files for row in read_source(file, source, media=folder / media)
                )
                return sampled_rows(rows, options)
        raise DataError(f"{folder} holds no {' or '.join(patterns)}")

    return read_rows


def sampled_rows(rows: Iterator[Row], options: BenchmarkOptions) -> Iterator[Row]:
    """Rows whose hash of id and seed is among the lowest, and all broken rows, in their order.

    All rows without a limit.
    """
    if options.limit is None:
        yield from rows
        return
    sampled: list[tuple[int, int, Row]] = []
    broken: list[tuple[int, Row]] = []
    for place, row in enumerate(rows):
        if not isinstance(row.content, Example):
            broken.append((place, row))
            continue
        # A heap of the lowest hashes, the highest of them on top.
        entry = (-item_hash(row.id, options.seed), -place, row)
        if len(sampled) < options.limit:
            heapq.heappush(sampled, entry)
        elif entry > sampled[0]:
            heapq.heapreplace(sampled, entry)
    chosen = broken + [(-place, row) for _, place, row in sampled]
    yield from (row for _, row in sorted(chosen, key=lambda entry: entry[0]))
