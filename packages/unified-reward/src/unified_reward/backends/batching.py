"""Batches of similar sizes, in which one bad item fails alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from unified_reward.core.errors import one_line
from unified_reward.core.verdicts import Failed


MAX_PADDING = 256
"""Largest number of padding tokens in a batch; more cost as much as another batch."""
CPU_PADDING = 32
"""The same on a CPU, which a few hundred tokens keep busy."""
MAX_TOKENS = 32_768
"""Most tokens of a batch, and in caches at a time; one takes 60 to 150 kB in a model of 7B
parameters."""
CPU_TOKENS = 16_384
"""The same on a CPU."""

FAULTS = (ValueError, RuntimeError, ArithmeticError, LookupError, TypeError, AttributeError)
"""Raised for a bad image, too many tokens, no memory, a number that overflows; or, in the code of a
model, processor or template, a wrong type or index by a configuration that does not fit."""
_Item = TypeVar("_Item")
_T = TypeVar("_T")


def batches(sizes: Sequence[int], most: int, tokens: int = MAX_TOKENS) -> Iterator[list[int]]:
    """Indices in batches of similar sizes, as each item is padded to the longest of its batch.

    Args:
        sizes: Approximate number of tokens of each item.
        most: Largest number of items in a batch.
        tokens: Largest number of tokens in a batch of several items, with padding.
    """
    batch: list[int] = []
    for i in sorted(range(len(sizes)), key=sizes.__getitem__):
        too_many = len(batch) == most or (len(batch) + 1) * sizes[i] > tokens
        if batch and (too_many or sum(sizes[i] - sizes[k] for k in batch) > MAX_PADDING):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def bisect_failures(
    items: list[_Item], function: Callable[[list[_Item]], list[_T]], name: str
) -> list[_T | Failed]:
    """Apply a function to a batch; if it raises, halve the batch down to the item at fault."""
    try:
        return [*function(items)]
    except FAULTS as error:
        if len(items) == 1:
            return [Failed(f"{name} could not answer: {one_line(error)}")]
    half = len(items) // 2
    return bisect_failures(items[:half], function, name) + bisect_failures(
        items[half:], function, name
    )
