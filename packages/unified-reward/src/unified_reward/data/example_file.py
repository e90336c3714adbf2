"""A file of records as a sequence: any row by index, without holding the file in memory.

Also here: a comparison the other way round.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Literal

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


def is_held_back(example: Example, share: float) -> bool:
    """True for about ``share`` of all prompts: examples of one prompt and context stay together.

    Depends on the prompt and the names of the context's files alone, not on order or file.
    """
    names = [str(one.source) for one in example.context if isinstance(one.source, str | Path)]
    digest = hashlib.sha256("\n".join([example.prompt, *names]).encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


class ExampleFile:
    """Records of a JSONL file in a seeded order; every row is checked when it is opened."""

    def __init__(
        self,
        path: Path,
        *,
        seed: int,
        twins: bool = False,
        part: Literal["all", "train", "held_back"] = "all",
        held_back: float = 0.0,
    ) -> None:
        """Index a file.

        Args:
            path: The file.
            seed: Of the order.
            twins: Give every comparison in both orders, one behind the other; a conversation,
                whose candidates are not known, stands alone.
            part: Rows to take: all, those for training, or those held back from it.
            held_back: Share of the prompts to hold back, in [0, 1); see `is_held_back`.

        Raises:
            DataError: Rows that cannot be used; says how many and the first reasons. Or the part
                has no row.
        """
        self._path = path
        bad: list[str] = []
        starts = array("q")
        compares = array("b")
        for row in read_examples(path):
            if isinstance(row.content, Failed):
                bad.append(row.content.error)
            elif part != "all" and is_held_back(row.content, held_back) != (part == "held_back"):
                continue
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
            named = {"all": "", "train": " left to train on", "held_back": " to hold back"}[part]
            raise DataError(f"{path} has no rows{named}")
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
