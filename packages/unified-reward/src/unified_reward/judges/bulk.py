"""A stage over a file of rows: in order, resumable, in this process or on a Ray cluster.

Rows are worked on in chunks that begin at the same rows whenever a run is started, so that a run
that was stopped makes the same batches, and the same numbers, as one that was not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

from unified_reward.core.errors import DataError
from unified_reward.core.extensions import extra
from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Failed
from unified_reward.io.journal import Journal
from unified_reward.io.rows import Row, parse_row, read_examples, record_lines
from unified_reward.io.verdict_rows import verdict_row
from unified_reward.judges.registry import JudgeOptions, open_reference


class Engine(StrEnum):
    """Where the work is done."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True)
class Line:
    """A row of the input as it goes to a worker."""

    number: int
    id: str
    raw: str
    error: str = ""
    """Why it cannot be used; then ``raw`` is not read."""


Rows = list[dict[str, Any]]


class Work(Protocol):
    """What is done, described so that it can be sent to another machine."""

    def open(self) -> Callable[[Sequence[Line]], Rows]:
        """Load what is needed; what comes back makes one row of every line, in order."""
        ...


def lines_of(path: Path, rows: Iterable[Row | Any]) -> Iterator[Line]:
    """The lines of a file as its reader understands them."""
    found = record_lines(path)
    for row in rows:
        raw = next(raw for number, _, raw in found if number == row.line)
        error = row.content.error if isinstance(row.content, Failed) else ""
        yield Line(row.line, row.id, raw.decode(errors="replace"), error)


def run(
    work: Work,
    lines: Iterable[Line],
    journal: Journal,
    *,
    size: int,
    engine: Engine = Engine.LOCAL,
    workers: int = 1,
) -> Iterator[Rows]:
    """Do what the journal lacks, chunk by chunk, and append it.

    Args:
        work: What is done.
        lines: The whole input, also what is done already.
        journal: What is done; appended to.
        size: Lines of a chunk, >= 1.
        engine: ``ray`` joins the cluster of ``RAY_ADDRESS``, or starts one here.
        workers: Ray actors, each with a copy of what the work opens; each takes a GPU where there
            are some.

    Yields:
        The rows just appended.

    Raises:
        DataError: The disk is full, or the journal is another judge's; what was appended stays.
    """
    source = iter(lines)
    chunks = iter(lambda: list(islice(source, size)), [])
    todo = (chunk for chunk in chunks if any(one.id not in journal.done for one in chunk))
    made = _here(work, todo) if engine is Engine.LOCAL else _on_ray(work, todo, workers)
    for rows in made:
        new = [row for row in rows if row["id"] not in journal.done]
        others = journal.judges - {(row["judge"], row["family"]) for row in new}
        if others:
            told = ", ".join(f"{name} ({asked})" for name, asked in sorted(others))
            raise DataError(f"{journal.path} holds rows of {told}; give this judge another file")
        journal.append(new)
        yield new


def _here(work: Work, chunks: Iterator[list[Line]]) -> Iterator[Rows]:
    do: Callable[[Sequence[Line]], Rows] | None = None
    for chunk in chunks:
        do = do or work.open()
        yield do(chunk)


@dataclass(frozen=True)
class JudgeWork:
    """A verdict row of every sample row."""

    source: Path
    judge: str
    model: str | None
    family: str | None
    orders: Literal[1, 2]

    def open(self) -> Callable[[Sequence[Line]], Rows]:
        """Load the judge; one of known answers reads the whole file."""
        found = (row.content for row in read_examples(self.source))
        truth = (one for one in found if isinstance(one, Example))
        judge = open_reference(
            self.judge, JudgeOptions(model=self.model, family=self.family), truth=truth
        )

        def verdicts(lines: Sequence[Line]) -> Rows:
            read = [self._read(line) for line in lines]
            samples = [one.as_samples()[0] for one in read if isinstance(one, Example)]
            told = iter(judge.ask(samples, orders=self.orders))
            return [
                verdict_row(
                    line.id,
                    next(told) if isinstance(one, Example) else one,
                    judge=judge.name,
                    family=judge.family,
                )
                for line, one in zip(lines, read, strict=True)
            ]

        return verdicts

    def _read(self, line: Line) -> Example | Failed:
        read = (
            Failed(line.error) if line.error else parse_row(line.raw.encode(), self.source.parent)
        )
        if isinstance(read, Example) and len(read.as_samples()) != 1:
            return Failed("a row without candidates, or with more than two, cannot be judged")
        return read


class _Actor:
    """A worker of Ray Data. Rows travel as JSON, since Arrow would pad their nested fields."""

    def __init__(self, work: Work) -> None:
        self._do = work.open()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        chunk = [Line(**one) for one in json.loads(row["chunk"])]
        return {"rows": json.dumps(self._do(chunk))}


def _on_ray(work: Work, chunks: Iterator[list[Line]], workers: int) -> Iterator[Rows]:
    with extra("ray"):
        import ray
        import ray.data
    items = [{"chunk": json.dumps([vars(one) for one in chunk])} for chunk in chunks]
    if not items:
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    actor: Any = _Actor
    data = ray.data.from_items(items, override_num_blocks=len(items)).map(
        actor,
        fn_constructor_args=(work,),
        concurrency=workers,
        num_gpus=1 if ray.cluster_resources().get("GPU") else 0,
    )
    for row in data.iter_rows():
        yield json.loads(row["rows"])
