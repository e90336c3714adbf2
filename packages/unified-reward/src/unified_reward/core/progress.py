"""A progress bar for calls from Python that take long; the commands have their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from rich.progress import Progress

DELAY_S = 2.0
"""Seconds before the bar appears."""


@contextmanager
def progress_bar(title: str, total: int) -> Generator[Callable[[int], None]]:
    """Show progress on standard error once the block has taken longer than `DELAY_S`.

    Nothing is shown where standard error is no terminal.

    Args:
        title: Text before the bar.
        total: Items in all.

    Yields:
        A function to call with the number of items just done.
    """
    start = time.monotonic()
    done = 0
    bar: Progress | None = None

    def advance(n: int) -> None:
        nonlocal bar, done
        done += n
        if bar is None and time.monotonic() - start > DELAY_S and done < total:
            bar = _started(title, total)
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()


def _started(title: str, total: int) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from unified_reward.core.rate import RateColumn

    console = Console(stderr=True)
    text = TextColumn("{task.description}", markup=False)
    bar = Progress(
        *(text, BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn()),
        console=console,
        redirect_stdout=False,
        disable=not (console.is_terminal or console.is_jupyter),
    )
    bar.add_task(title, total=total)
    bar.start()
    return bar
