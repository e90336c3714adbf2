"""A progress bar on standard error, so that standard output stays for results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def bar(title: str, total: int | None, *, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show progress; what it gives is called with the number of items just done.

    Args:
        title: What is done.
        total: Items in all; None where nobody knows.
        done: Items done before.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # Redirected, results would be written to standard error, also where they go to a file.
    with Progress(
        *columns,
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:
        task = progress.add_task(title, total=total, completed=done)
        yield lambda n: progress.advance(task, n)
