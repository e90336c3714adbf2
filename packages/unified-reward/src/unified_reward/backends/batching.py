"""Asking in batches: like sizes together, and one bad item fails alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from unified_reward.core.verdicts import Failed


_PADDING = 256
"""Tokens of padding in a batch that are cheaper than another batch."""

_Item = TypeVar("_Item")
_T = TypeVar("_T")


def batches(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices in batches of like sizes: each row is padded to the longest of its batch."""
    batch: list[int] = []
    for i in sorted(range(len(sizes)), key=sizes.__getitem__):
        padding = sum(sizes[i] - sizes[k] for k in batch)
        if batch and (len(batch) == most or padding > _PADDING):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def bisect_failures(
    items: list[_Item], ask: Callable[[list[_Item]], list[_T]], name: str
) -> list[_T | Failed]:
    """Ask a batch; where it breaks, halve it until the item that breaks it stands alone."""
    try:
        return [*ask(items)]
    except (ValueError, RuntimeError) as error:  # a bad picture, too many tokens, no memory
        if len(items) == 1:
            return [Failed(f"{name} could not answer: {error}")]
    half = len(items) // 2
    return bisect_failures(items[:half], ask, name) + bisect_failures(items[half:], ask, name)
