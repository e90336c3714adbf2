"""A file of rows as a sequence of training examples, without holding the file in memory."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example, Pair
from unified_reward.core.verdicts import Failed, Winner
from unified_reward.io.rows import Row, parse_row, read_examples
from unified_reward.io.text import read_line
from unified_reward.io.vote_rows import mirrored_raters


MIRRORED: dict[str, Winner] = {"first": "second", "tie": "tie", "second": "first"}
"""Each outcome of a comparison, as it is with the candidates exchanged."""


def mirrored(record: Example) -> Example:
    """Return a comparison with its candidates exchanged and its target turned accordingly.

    A published conversation speaks of the first order, so the mirrored record has none. Tags that
    end in ``_first`` and ``_second`` are exchanged, and so are counts of votes.

    Raises:
        DataError: The record does not have two candidates.
    """
    if len(record.candidates) != 2:
        raise DataError(
            f"record {record.id!r} has no other order: only two candidates have one, it has "
            f"{len(record.candidates)}"
        )
    target, pair = record.target, record.pair
    if pair:
        pair = Pair(pair.rejected, pair.chosen, pair.chosen_score, pair.rejected_score)
    winner = MIRRORED[target.winner] if target.winner else None
    aspects = {name: 1 - share for name, share in target.aspects.items()}
    return replace(
        record,
        candidates=record.candidates[::-1],
        target=replace(target, winner=winner, aspects=aspects),
        pair=pair,
        raters=mirrored_raters(record.raters),
        tags={_mirrored_name(name): value for name, value in record.tags.items()},
        messages=(),
    )


def _mirrored_name(tag: str) -> str:
    stem, underscore, side = tag.rpartition("_")
    return stem + underscore + MIRRORED[side] if underscore and side in MIRRORED else tag


def is_held_back(example: Example, share: float, folder: Path) -> bool:
    """True for about ``share`` of all prompts: examples of one prompt and context stay together.

    Depends on the prompt and the context's files, named relative to ``folder``, alone.
    """
    files = [m.source for m in example.context if isinstance(m.source, str | Path)]
    names = [os.path.relpath(file, folder) for file in files]
    digest = hashlib.sha256(
        "\n".join([example.prompt, *names]).encode(errors="surrogatepass")
    ).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


Part = Literal["all", "train", "held_back"]


def _belongs(example: Example, part: Part, share: float, folder: Path) -> bool:
    return part == "all" or is_held_back(example, share, folder) == (part == "held_back")


class ExampleFile:
    """Examples of a JSONL file in a seeded order; every row is checked when it is opened.

    Made pairs are comparisons (`Example.as_comparison`); dropped and failed rows are left out.
    """

    def __init__(
        self,
        path: Path,
        *,
        seed: int,
        twins: bool = False,
        part: Part = "all",
        held_back: float = 0.0,
    ) -> None:
        """Index a file.

        Args:
            path: The file; rows of any kind that has candidates or messages.
            seed: Seed of the order.
            twins: Give every comparison in both orders, one behind the other; a conversation,
                whose candidates are not known, has no twin.
            part: Rows to take: all, those for training, or those held back from it.
            held_back: Share of the prompts to hold back, in [0, 1); see `is_held_back`.

        Raises:
            DataError: Rows cannot be used; names their number and the first reasons. Or the part
                has no row.
        """
        self._path = path
        wrong: list[str] = []
        skipped: Counter[str] = Counter()
        starts = array("q")
        compares = array("b")
        for row in read_examples(path):
            content = row.content
            if row.status in ("dropped", "failed"):
                skipped[row.status] += 1
            elif reason := _unusable(row):
                wrong.append(reason)
            elif isinstance(content, Failed) or not _belongs(content, part, held_back, path.parent):
                continue
            else:
                compares.append(len(content.as_comparison().candidates) == 2)
                starts.append(row.start)
        if wrong:
            n_rows = len(wrong) + len(starts)
            raise DataError(
                f"{len(wrong)} of {n_rows} rows of {path} cannot be used: {'; '.join(wrong[:3])}"
            )
        if not starts:
            others = ", ".join(f"{n} {status}" for status, n in sorted(skipped.items()))
            purpose = {"all": "", "train": " to train on", "held_back": " that are held back"}[part]
            raise DataError(f"{path} has no rows{purpose}" + (f": {others}" if others else ""))
        self._starts = starts
        order = np.random.default_rng(seed).permutation(len(starts))
        repeats = 1 + np.array(compares) * twins
        self._order = np.repeat(order, repeats[order])

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Example:
        row = int(self._order[index])
        content = parse_row(read_line(self._path, self._starts[row]), self._path.parent)
        if isinstance(content, Failed):
            raise DataError(f"{self._path} changed while it was read: {content.reason}")
        content = content.as_comparison()
        is_twin = index % len(self._order) > 0 and self._order[index - 1] == row
        return mirrored(content) if is_twin and len(content.candidates) == 2 else content


def _unusable(row: Row) -> str:
    """Reason why a judge cannot learn from a row; empty where it can."""
    content = row.content
    if isinstance(content, Failed):
        return content.reason
    lack = missing_label(content)
    return f"line {row.line}: {lack}" if lack else ""


def missing_label(example: Example) -> str:
    """Reason why a judge cannot learn from an example; empty where it can."""
    target, n = example.target, len(example.candidates)
    if example.messages or example.pair:
        return ""
    if n not in (1, 2):
        return (
            f"{n} candidates without a pair; a judge learns from one, from two, or from chosen and "
            "rejected"
        )
    if target.aspects or (target.score if n == 1 else target.winner) is not None:
        return ""
    label = "score" if n == 1 else "winner"
    return f"no label; a judge learns from a {label} or from aspects in target"
