"""Progress bar on standard error; standard output stays for results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(TextColumn):
    """Items of this run for each second, or seconds for each item."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


@contextmanager
def bar(title: str, total: int | None, *, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs; call the yielded function with the number of new items.

    It shows their rate and the time left, and nothing where standard error is no terminal.

    Args:
        title: Name of the work.
        total: Number of items; None if unknown.
        done: Items done by an earlier run.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
    console = Console(stderr=True)
    # rich would print results to standard error if it redirected a standard output that is a file.
    with Progress(
        *columns,
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        redirect_stdout=sys.stdout.isatty(),
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(title, total=total, completed=done)
        yield lambda n: progress.advance(task, n)
