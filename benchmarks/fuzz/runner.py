"""The loop over inputs: guards of time and memory, counting, and the table at the end."""

from __future__ import annotations

import math
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from benchmarks.fuzz.kind import Kind, RowsLostError, WrongReadError


KINDS = (
    *("images", "clips", "rows", "tables", "recipes", "checkpoints", "answers", "server"),
    "commands",
)
"""A module each, with a class of the same name in capitals and its ``SHARE`` of all inputs."""
NAMES = ("tracebacks", "wrong_reads", "rows_lost")
"""The figures that are 0."""
TIME_LIMIT_S = 60.0
"""Longest time for one input; a longer one is a traceback of ``HangError``."""
MEMORY_LIMIT = 16 * 2**30
"""Address space of the process in bytes; an input that wants more is a traceback."""


_MEMORY_DISK = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
"""Files of inputs need no disk, and journals wait for it."""


class HangError(BaseException):
    """An input took too long; not an Exception, so that no handler swallows it."""


@dataclass
class Counts:
    """Results of one kind."""

    inputs: int = 0
    refused: int = 0
    read: int = 0
    tracebacks: int = 0
    wrong_reads: int = 0
    rows_lost: int = 0
    seconds: float = 0.0
    findings: list[dict[str, str]] = field(default_factory=list)
    """The input ``KIND:INDEX``, which figure it counts in, the message, and where it was raised."""


def open_kind(name: str, folder: Path) -> Kind:
    """Make the seeds of a kind in an empty folder."""
    return getattr(import_module(f"benchmarks.fuzz.{name}"), name.capitalize())(folder)


def shares(kinds: Sequence[str], n: int) -> dict[str, int]:
    """Inputs of each kind, by their shares."""
    weights = {name: import_module(f"benchmarks.fuzz.{name}").SHARE for name in kinds}
    total = sum(weights.values())
    return {name: max(1, round(n * weight / total)) for name, weight in weights.items()}


def run(wanted: Mapping[str, Sequence[int]], seed: int, *, stop: bool = False) -> dict[str, Counts]:
    """Check inputs.

    Args:
        wanted: Indices of the inputs of each kind.
        seed: Seed of all.
        stop: Raise what is found, for ``--only``.
    """
    results: dict[str, Counts] = {}
    soft = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, soft[1]))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            for name, indices in wanted.items():
                task = progress.add_task(name, total=len(indices))
                with (
                    tempfile.TemporaryDirectory(dir=_MEMORY_DISK) as folder,
                    warnings.catch_warnings(),
                ):
                    warnings.simplefilter("ignore")
                    kind = open_kind(name, Path(folder))
                    results[name] = check_kind(
                        kind, name, indices, seed, lambda t=task: progress.advance(t), stop=stop
                    )
    finally:
        resource.setrlimit(resource.RLIMIT_AS, soft)
    return results


def check_kind(
    kind: Kind,
    name: str,
    indices: Sequence[int],
    seed: int,
    advance: Callable[[], object] = lambda: None,
    *,
    stop: bool = False,
) -> Counts:
    """Check inputs of one kind."""
    counts = Counts()
    start = time.perf_counter()
    for index in indices:
        counts.inputs += 1
        try:
            with _limited(TIME_LIMIT_S):
                if kind.check(Random(f"{seed} {name} {index}")):
                    counts.read += 1
                else:
                    counts.refused += 1
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if stop:
                raise
            _count(counts, f"{name}:{index}", error)
        advance()
    counts.seconds = time.perf_counter() - start
    return counts


def _count(counts: Counts, name: str, error: BaseException) -> None:
    figure = "tracebacks"
    if isinstance(error, WrongReadError):
        figure = "wrong_reads"
    elif isinstance(error, RowsLostError):
        figure = "rows_lost"
    setattr(counts, figure, getattr(counts, figure) + 1)
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/src/unified_reward" in frame.filename]
    at = ours[-1] if ours else frames[-1]
    counts.findings.append(
        {
            "input": name,
            "figure": figure,
            "message": f"{type(error).__name__}: {error}"[:300],
            "at": f"{at.filename.rpartition('/src/')[2] or at.filename}:{at.lineno}",
        }
    )


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def hang(*_: object) -> None:
        raise HangError(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def report(results: Mapping[str, Counts], seed: int) -> dict[str, Any]:
    """Print the table and the findings, and return both as plain values."""
    names = ("inputs", "refused", "read", *NAMES, "seconds")
    table = Table("kind", *(name.replace("_", " ") for name in names), box=None)
    total = {
        name: math.fsum(getattr(one, name) for one in results.values())
        if name == "seconds"
        else sum(getattr(one, name) for one in results.values())
        for name in names
    }
    for kind, counts in [*((k, asdict(c)) for k, c in results.items()), ("all", total)]:
        table.add_row(kind, *(f"{counts[name]:,.0f}" for name in names))
    console = Console(width=max(100, Console().width))
    console.print(table)
    for found in _alike([one for counts in results.values() for one in counts.findings]):
        line = f"{found[0]['input']}  {found[0]['figure']}  {found[0]['at']}  "
        line += f"{found[0]['message']!a}" + f"  and {len(found) - 1} alike" * (len(found) > 1)
        console.print(Text(line), soft_wrap=True)
    sys.stdout.flush()
    return {
        "seed": seed,
        "total": total,
        "kinds": {kind: asdict(counts) for kind, counts in results.items()},
    }


def _alike(findings: Sequence[dict[str, str]]) -> list[list[dict[str, str]]]:
    """Findings with the same figure, place and beginning of their message stand together."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for found in findings:
        gist = re.sub(r"""'[^']*'|"[^"]*"|[\d.]+""", "…", found["message"])[:60]
        groups.setdefault((found["figure"], found["at"], gist), []).append(found)
    return list(groups.values())
