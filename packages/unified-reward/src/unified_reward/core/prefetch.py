"""Bounded windows over many items: threads prepare the next window while one is worked on.

Standard library only; knows neither the keys nor their values.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import zip_longest
from typing import TypeVar


THREADS = max(4, min(16, os.cpu_count() or 1))
"""Items prepared at once: decoders and resizing leave Python's lock to each other."""

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
        prepare: Makes the value of a key; called in threads unless there is only one.
        cache: Values that exist already; new ones are added and stay. None drops each value when
            its window is done.

    Yields:
        Per window the values of its keys, and maybe of others.
    """
    values: dict[_Key, _Value] = {} if cache is None else cache
    if len(windows) == 1 and len(windows[0]) == 1:
        (key,) = windows[0]  # sooner prepared than a thread is started
        if key not in values:
            values[key] = prepare(key)
        yield values
    else:
        yield from _in_threads(windows, prepare, values, keeps=cache is not None)


def _in_threads(
    windows: Sequence[Collection[_Key]],
    prepare: Callable[[_Key], _Value],
    values: dict[_Key, _Value],
    *,
    keeps: bool,
) -> Iterator[dict[_Key, _Value]]:
    """Prepare windows in threads; drop the values of a window when it is done unless ``keeps``."""
    pending: dict[_Key, Future[_Value]] = {}
    pool = ThreadPoolExecutor(THREADS)

    def submit(window: Collection[_Key]) -> None:
        for key in window:
            if key not in values and key not in pending:
                pending[key] = pool.submit(prepare, key)

    try:
        for window, following in zip_longest(windows, windows[1:], fillvalue=()):
            submit(window)
            submit(following)  # no thread is idle while the last of a window is prepared
            for key in window:
                if key in pending:
                    values[key] = pending.pop(key).result()
            yield values
            if not keeps:
                for key in values.keys() - set(following):
                    del values[key]
    finally:
        pool.shutdown(cancel_futures=True)
