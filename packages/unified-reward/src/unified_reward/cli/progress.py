"""Progress bar on standard error; standard output stays for results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def bar(title: str, total: int | None, *, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs; call the yielded function with the number of new items.

    Args:
        title: Name of the work.
        total: Number of items; None if unknown.
        done: Items done by an earlier run.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # rich would print results to standard error if it redirected a standard output that is a file.
    with Progress(
        *columns,
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:
        task = progress.add_task(title, total=total, completed=done)
        yield lambda n: progress.advance(task, n)
