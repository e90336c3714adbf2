"""Progress bar on standard error; standard output stays for results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from unified_reward.core.errors import DataError
from unified_reward.core.rate import RateColumn
from unified_reward.io.text import read_lines


_COUNTED_BYTES = 64 * 2**20
"""Size of the largest file whose rows are counted, which takes about a second."""


@contextmanager
def waiting(title: str) -> Iterator[None]:
    """Show a title and the seconds since while the block runs, such as for weights to be loaded.

    Nothing of it stays, and nothing is written where standard error is no terminal.
    """
    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
        disable=not console.is_terminal,
    ) as progress:
        progress.add_task(title, total=None)
        yield


def rows_in(path: Path) -> int | None:
    """Rows of a file of JSON lines, for a bar; None for others, and where counting would take long.

    Nothing is counted where standard error is no terminal, and so has no bar.
    """
    if path.suffix.lower() != ".jsonl" or not Console(stderr=True).is_terminal:
        return None
    try:
        if path.stat().st_size > _COUNTED_BYTES:
            return None
        return sum(1 for _ in read_lines(path))
    except (OSError, DataError):  # the command says so itself
        return None


@contextmanager
def bar(title: str, total: int | None, *, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs; call the yielded function with the number of new items.

    It shows their rate and the time left, and nothing where standard error is no terminal.

    Args:
        title: Name of the work.
        total: Number of items; None if unknown.
        done: Items done by an earlier run.
    """
    text = TextColumn("{task.description}", markup=False)  # a file's name may have brackets
    columns = (text, BarColumn(), MofNCompleteColumn(), RateColumn())
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
