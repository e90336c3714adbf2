"""A progress bar for calls from Python that take long; the commands have their own."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Timer
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
    done = 0
    bar: Progress | None = None

    def show() -> None:
        nonlocal bar
        bar = _started(title, total, done)

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done)

    timer = Timer(DELAY_S, show)
    timer.daemon = True
    timer.start()
    try:
        yield advance
    finally:
        timer.cancel()
        timer.join()
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done)
            bar.stop()


def _started(title: str, total: int, done: int) -> Progress:
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
    bar.add_task(title, total=total, completed=done)
    bar.start()
    return bar
