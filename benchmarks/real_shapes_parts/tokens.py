"""Token arithmetic: what questions have in common, and what a server with a prefix cache computes.

Rows are tokens of questions in which each token of an image is told apart by its image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


Row = tuple[int, ...]
_BLOCK = 16
"""Tokens of a block of the server's cache, which is shared whole or not at all (vLLM)."""
_PER_IMAGE = 1 << 20


class Distinct(NamedTuple):
    """Prefixes of rows, each counted once."""

    tokens: int
    """Tokens whose prefixes differ."""
    pairs: int
    """Pairs of such a token with itself or one before it, which attention looks at."""
    images: int
    """Images."""


def keyed(ids: Sequence[int], image_token: int, images: Iterable[int]) -> Row:
    """Tokens of a question, those of its images as negative numbers of image and place.

    Args:
        ids: Token ids, in which each image is one run of its token.
        image_token: Token that stands for a part of an image.
        images: Number of each image.
    """
    numbers = iter(images)
    row: list[int] = []
    number, place = 0, 0
    for k, token in enumerate(ids):
        if token != image_token:
            row.append(token)
            continue
        if not k or ids[k - 1] != image_token:
            number, place = next(numbers), 0
        place += 1
        row.append(-number * _PER_IMAGE - place)
    return (*row,)


def _images(row: Row) -> set[int]:
    return {(-token - 1) // _PER_IMAGE for token in row if token < 0}


def distinct(rows: Iterable[Row]) -> Distinct:
    """Count prefixes once however many rows begin with them.

    >>> distinct([(1, 2, 3), (1, 2, 4), (1, 5)])
    Distinct(tokens=5, pairs=11, images=0)
    """
    nodes: dict[tuple[int, int], int] = {}
    pairs = 0
    images: set[int] = set()
    for row in rows:
        images |= _images(row)
        parent = 0
        for depth, token in enumerate(row, 1):
            node = nodes.get((parent, token))
            if node is None:
                node = nodes[parent, token] = len(nodes) + 1
                pairs += depth
            parent = node
    return Distinct(len(nodes), pairs, len(images))


def plain(rows: Sequence[Row]) -> Distinct:
    """Count every token of every row, and an image for each row that contains it."""
    return Distinct(
        sum(map(len, rows)),
        sum(len(row) * (len(row) + 1) // 2 for row in rows),
        sum(len(_images(row)) for row in rows),
    )


def served(rows: Iterable[Row]) -> Distinct:
    """Count what a server with a prefix cache computes, one row after the other, none evicted.

    Blocks of 16 tokens are kept with everything before them; the last token of a row is always
    computed. An image is encoded if a token of it is, unless it was before: vLLM keeps both.

    >>> served([(*range(40),), (*range(40),)]).tokens
    48
    """
    blocks: dict[tuple[int, Row], int] = {}
    encoded: set[int] = set()
    tokens = pairs = 0
    for row in rows:
        known = parent = 0
        while known + _BLOCK < len(row):
            block = blocks.get((parent, row[known : known + _BLOCK]))
            if block is None:
                break
            known, parent = known + _BLOCK, block
        for start in range(known, len(row) - _BLOCK + 1, _BLOCK):
            key = (parent, row[start : start + _BLOCK])
            parent = blocks.setdefault(key, len(blocks) + 1)
        tokens += len(row) - known
        pairs += sum(range(known + 1, len(row) + 1))
        encoded |= _images(row[known:])
    return Distinct(tokens, pairs, len(encoded))
