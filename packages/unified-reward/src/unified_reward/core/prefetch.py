"""Bounded windows over many items: threads prepare the next window while one is worked on.

Standard library only; knows neither the keys nor their values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import zip_longest
from typing import TypeVar


THREADS = 4
"""Items prepared at once."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def prefetch(
    windows: Sequence[Collection[_Key]],
    prepare: Callable[[_Key], _Value],
    cache: dict[_Key, _Value] | None = None,
) -> Iterator[dict[_Key, _Value]]:
    """Prepare each key of each window, at most two windows ahead of the caller in memory.

    Args:
        windows: Keys that are needed together; a key of two windows in a row is prepared once.
        prepare: Makes the value of a key; called in threads.
        cache: Values that exist already; new ones are added and stay. None drops each value when
            its window is done.

    Yields:
        Per window the values of its keys, and maybe of others.
    """
    values: dict[_Key, _Value] = {} if cache is None else cache
    pending: dict[_Key, Future[_Value]] = {}
    pool = ThreadPoolExecutor(THREADS)

    def submit(window: Collection[_Key]) -> None:
        for key in window:
            if key not in values and key not in pending:
                pending[key] = pool.submit(prepare, key)

    try:
        for window, following in zip_longest(windows, windows[1:], fillvalue=()):
            submit(window)
            for key in window:
                if key in pending:
                    values[key] = pending.pop(key).result()
            submit(following)
            yield values
            if cache is None:
                for key in values.keys() - set(following):
                    del values[key]
    finally:
        pool.shutdown(cancel_futures=True)
