"""A file of records as a sequence: any row by index, without holding the file in memory.

Also here: a comparison the other way round.
"""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path

import numpy as np

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Conversation, Example
from unified_reward.core.verdicts import Failed, Winner
from unified_reward.io.rows import parse_row, read_examples


_MIRRORED: dict[str, Winner] = {"first": "second", "tie": "tie", "second": "first"}


def mirrored(record: Example) -> Example:
    """A comparison with its candidates exchanged and its target turned accordingly.

    A published conversation speaks of the first order, so the mirrored record has none.

    Raises:
        DataError: The record is no comparison.
    """
    if record.sample.form != "compare":
        raise DataError(f"record {record.sample.id!r} has one candidate, which has no other order")
    target = record.target
    winner = _MIRRORED[target.winner] if target.winner else None
    aspects = {
        _MIRRORED.get(name, name): share if name in _MIRRORED else 1 - share
        for name, share in target.aspects.items()
    }
    turned = replace(target, winner=winner, aspects=aspects)
    return replace(record, sample=record.sample.swapped(), target=turned, messages=())


class ExampleFile:
    """Records of a JSONL file in a seeded order; every row is checked when it is opened."""

    def __init__(self, path: Path, *, seed: int, twins: bool = False) -> None:
        """Index a file.

        Args:
            path: The file.
            seed: Of the order.
            twins: Give every comparison in both orders, one behind the other; a conversation,
                whose candidates are not known, stands alone.

        Raises:
            DataError: Rows that cannot be used; says how many and the first reasons.
        """
        self._path = path
        bad: list[str] = []
        starts = array("q")
        compares = array("b")
        for row in read_examples(path):
            if isinstance(row.content, Failed):
                bad.append(row.content.error)
            else:
                compares.append(
                    isinstance(row.content, Example) and row.content.sample.form == "compare"
                )
            starts.append(row.start)
        if bad:
            raise DataError(
                f"{len(bad)} of {len(starts)} rows of {path} cannot be used: {'; '.join(bad[:3])}"
            )
        if not starts:
            raise DataError(f"{path} has no rows")
        self._starts = starts
        order = np.random.default_rng(seed).permutation(len(starts))
        repeats = 1 + np.array(compares) * twins
        self._order = np.repeat(order, repeats[order])

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Example | Conversation:
        row = int(self._order[index])
        start = self._starts[row]
        with self._path.open("rb") as file:
            file.seek(start)
            content = parse_row(file.readline(), self._path.parent)
        if isinstance(content, Failed):
            raise DataError(f"{self._path} changed while it was read: {content.error}")
        is_twin = index % len(self._order) > 0 and self._order[index - 1] == row
        return mirrored(content) if is_twin and isinstance(content, Example) else content
