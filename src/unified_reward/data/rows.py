"""A file of records as a sequence: any row by index, without holding the file in memory."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np

from unified_reward.records import parse_row, read_records
from unified_reward.types import DataError, Failed, Record


class RecordFile:
    """Records of a JSONL file in a seeded order; every row is checked when it is opened."""

    def __init__(self, path: Path, *, seed: int) -> None:
        """Index a file.

        Raises:
            DataError: Rows that cannot be used; says how many and the first reasons.
        """
        self._path = path
        bad: list[str] = []
        starts = array("q")
        for row in read_records(path):
            if isinstance(row.content, Failed):
                bad.append(row.content.error)
            starts.append(row.start)
        if bad:
            raise DataError(
                f"{len(bad)} of {len(starts)} rows of {path} cannot be used: {'; '.join(bad[:3])}"
            )
        if not starts:
            raise DataError(f"{path} has no rows")
        self._starts = starts
        self._order = np.random.default_rng(seed).permutation(len(starts))

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Record:
        start = self._starts[int(self._order[index])]
        with self._path.open("rb") as file:
            file.seek(start)
            content = parse_row(file.readline(), self._path.parent)
        if isinstance(content, Failed):
            raise DataError(f"{self._path} changed while it was read: {content.error}")
        return content
