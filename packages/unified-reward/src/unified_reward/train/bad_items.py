"""Items that a processor refuses: found before training, and left out of a batch in training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader

from unified_reward.core.errors import DataError, MediaError, one_line


BAD_ITEM = (
    *(DataError, MediaError, ValueError, OSError),
    *(RuntimeError, ArithmeticError, IndexError),
)
"""Errors that a single item can cause when it is opened or processed."""
_MOST = 3
"""Items that may be left out of any data set; of a large one, a tenth."""

Batch = dict[str, Tensor]
Collate = Callable[[Sequence[dict[str, Any]]], Batch]


class Items(Protocol):
    """Items by index; with a method ``name`` if they have ids."""

    def __len__(self) -> int: ...


def item_name(items: Items, index: int) -> str:
    """Name of an item, for messages."""
    name = getattr(items, "name", None)
    return f"record {name(index)!r}" if name else f"example {index}"


def collate_alone(collate: Collate, items: Items, index: int, limit: int | None = None) -> Batch:
    """Batch a single item.

    Args:
        collate: Batches the items whose indices its rows hold by the key ``row``.
        items: The items.
        index: Which one.
        limit: Tokens that the model takes; None for any number.

    Raises:
        DataError: The item cannot be used; names it.
    """
    try:
        batch = collate([{"row": index}])
        if limit and (n := batch["input_ids"].shape[1]) > limit:
            raise DataError(f"{n} tokens, but the model takes {limit}")
    except BAD_ITEM as error:
        raise DataError(f"{item_name(items, index)}: {one_line(error)}") from error
    return batch


def check_items(
    collate: Collate, items: Items, source: str, *, limit: int | None = None, workers: int = 0
) -> None:
    """Process every item once, each process its share, as the training will.

    Args:
        collate: See `collate_alone`.
        items: The items.
        source: Where they are from, for the message.
        limit: Tokens that the model takes; None for any number.
        workers: Further processes that help.

    Raises:
        DataError: Items cannot be used; gives their number and the first reasons.
    """
    state = PartialState()
    mine = range(state.process_index, len(items), state.num_processes)
    reason = partial(_reason, collate, items, limit)
    loader: Any = DataLoader(mine, 1, num_workers=workers, collate_fn=reason)  # type: ignore[arg-type]
    reasons = dict.fromkeys(gather_object([found for found in loader if found]))
    if reasons:
        raise DataError(
            f"{len(reasons)} of {len(items)} rows of {source} cannot be used: "
            f"{'; '.join([*reasons][:3])}"
        )


def _reason(collate: Collate, items: Items, limit: int | None, index: Sequence[int]) -> str:
    try:
        collate_alone(collate, items, index[0], limit)
    except DataError as error:
        return str(error)
    return ""


class SparingCollator:
    """Batches what can be used of a batch; an item that cannot is left out, once reported."""

    def __init__(
        self, collate: Collate, items: Items, log: Callable[[str], None] | None = None
    ) -> None:
        self._collate, self._items = collate, items
        self._log = log or logging.getLogger(__name__).warning
        self._bad: set[int] = set()

    def __call__(self, batch: Sequence[Mapping[str, Any]]) -> Batch:
        """Batch the good items; if there is none, the next good one of the data set.

        Raises:
            DataError: More items than a tenth, and than 3, cannot be used; or none can.
        """
        rows = [dict(row) for row in batch if row["row"] not in self._bad]
        try:
            if rows:
                return self._collate(rows)
        except BAD_ITEM:
            good = [row for row in rows if self._is_good(row["row"])]
            if len(good) == len(rows):
                raise
            rows = good
        return self._collate(rows or [{**batch[0], "row": self._next_good(batch[0]["row"])}])

    def _next_good(self, index: int) -> int:
        n = len(self._items)
        for i in range(index + 1, index + n):
            if self._is_good(i % n):
                return i % n
        raise DataError("no item can be used; the reasons are logged")

    def _is_good(self, index: int) -> bool:
        if index in self._bad:
            return False
        try:
            collate_alone(self._collate, self._items, index)
        except DataError as error:
            self._bad.add(index)
            self._log(f"left out of training: {error}")
            if len(self._bad) > max(_MOST, len(self._items) // 10):
                raise DataError(
                    f"{len(self._bad)} of {len(self._items)} items cannot be used, the last: "
                    f"{error}"
                ) from error
            return False
        return True
