"""Bulk work over a file of rows: in order, resumable, in this process or on a Ray cluster.

Rows are worked on in chunks that begin at the same rows whenever a run is started, so that a run
that was stopped makes the same batches, and the same numbers, as one that was not. The file is
read once, row by row.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import DataError, UnifiedRewardError
from unified_reward.core.extensions import require
from unified_reward.core.samples import Example, Sample
from unified_reward.core.verdicts import Failed, Ranking, Verdict
from unified_reward.io.journal import Journal
from unified_reward.io.rows import Row, read_examples
from unified_reward.io.verdict_rows import verdict_row
from unified_reward.judges.registry import JudgeOptions, open_reference


OutputRows = list[dict[str, Any]]
Worker = Callable[[Sequence[Row]], OutputRows]
"""Makes one output row of every input row, in order."""
_CHUNKS_PER_WORKER = 2
"""Chunks sent to each Ray worker ahead of the one that is waited for."""


class Engine(StrEnum):
    """Place where the work is done."""

    LOCAL = "local"
    RAY = "ray"


class Work(Protocol):
    """Kind of work, as a value that can be sent to another machine."""

    def open(self) -> Worker:
        """Load what the work needs, such as a judge."""
        ...


class FinishedChunk(NamedTuple):
    """Rows that are in the journal now."""

    ids: tuple[str, ...]
    """Ids of the input rows."""
    rows: OutputRows
    """Output rows that were just appended; without those that were there before."""


def run(
    work: Work,
    rows: Iterable[Row],
    journal: Journal,
    *,
    size: int,
    engine: Engine = Engine.LOCAL,
    workers: int = 1,
) -> Iterator[FinishedChunk]:
    """Do the work that the journal lacks, chunk by chunk, and append its rows.

    Args:
        work: Kind of work.
        rows: The whole input, also rows that are done already; each is taken once.
        journal: Finished rows; appended to.
        size: Rows of a chunk, >= 1.
        engine: ``ray`` joins the cluster of ``RAY_ADDRESS``, or starts one here.
        workers: Ray actors, each with a judge of its own, and a GPU where there are some.

    Yields:
        Every chunk of the input, once it is finished. Those done before come without rows, with
        ``ray`` as soon as they are read.

    Raises:
        ConfigError: The judge cannot be opened, or Ray is not installed.
        DataError: The disk is full, or the journal is another judge's or holds rows of another
            kind, and is left as it is; appended rows stay.
    """
    if ("None", "None") in journal.judges:
        raise DataError(f"{journal.path} holds rows that no judge made; give another output file")
    source = iter(rows)
    chunks = iter(lambda: list(islice(source, size)), [])
    run_chunks = _run_here if engine is Engine.LOCAL else _run_on_ray
    for chunk, made in run_chunks(work, chunks, journal, workers):
        new = [row for row in made if row["id"] not in journal.done]
        if new:
            _check_rows(journal, new)
            journal.append(new)
        yield FinishedChunk(tuple(row.id for row in chunk), new)
    journal.repair()


def _check_rows(journal: Journal, new: OutputRows) -> None:
    """Refuse to append rows to those of another judge or of another kind."""
    others = journal.judges - {(row["judge"], row["family"]) for row in new}
    if others:
        names = ", ".join(f"{judge} ({family})" for judge, family in sorted(others))
        raise DataError(f"{journal.path} holds rows of {names}; give this judge another file")
    if journal.keys - {frozenset(row) for row in new}:
        raise DataError(
            f"{journal.path} holds rows of another kind, with other keys; give another output file"
        )


def _is_done(chunk: Sequence[Row], journal: Journal) -> bool:
    return all(row.id in journal.done for row in chunk)


def _run_here(
    work: Work, chunks: Iterator[list[Row]], journal: Journal, _: int
) -> Iterator[tuple[list[Row], OutputRows]]:
    worker: Worker | None = None
    for chunk in chunks:
        if _is_done(chunk, journal):
            yield chunk, []
        else:
            worker = worker or work.open()
            yield chunk, worker(chunk)


class _Actor:
    """A Ray actor that opens its work at the first chunk."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._worker: Worker | None = None

    def run(self, chunk: Sequence[Row]) -> OutputRows:
        self._worker = self._worker or self._work.open()
        return self._worker(chunk)


def _run_on_ray(
    work: Work, chunks: Iterator[list[Row]], journal: Journal, workers: int
) -> Iterator[tuple[list[Row], OutputRows]]:
    """Keep a bounded number of chunks with the actors; results come in the order of the input."""
    ray: Any = require("ray", "ray")
    pool: Any = None
    sent: deque[list[Row]] = deque()
    for chunk in chunks:
        if _is_done(chunk, journal):
            yield chunk, []
            continue
        pool = pool or _start_actors(work, workers)
        pool.submit(lambda actor, rows: actor.run.remote(rows), chunk)
        sent.append(chunk)
        if len(sent) > _CHUNKS_PER_WORKER * workers:
            yield sent.popleft(), _next_result(ray, pool)
    while sent:
        yield sent.popleft(), _next_result(ray, pool)


def _start_actors(work: Work, workers: int) -> Any:
    """Start Ray and a pool of actors; one that dies is started again with its chunk."""
    ray: Any = require("ray", "ray")
    pools: Any = require("ray", "ray.util.actor_pool")
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR)
    options = {
        "num_gpus": 1 if ray.cluster_resources().get("GPU") else 0,
        "max_restarts": 3,
        "max_task_retries": 3,
    }
    actor = ray.remote(**options)(_Actor)
    return pools.ActorPool([actor.remote(work) for _ in range(workers)])


def _next_result(ray: Any, pool: Any) -> OutputRows:
    try:
        return pool.get_next()
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UnifiedRewardError):
            raise error.cause from error
        raise


@dataclass(frozen=True)
class JudgeWork:
    """A verdict row for every row of a file."""

    source: Path
    """The file; read a second time by ``scripted:perfect`` alone, for its targets."""
    judge: str
    options: JudgeOptions
    orders: Literal[1, 2]

    def open(self) -> Worker:
        """Open the judge."""
        records = (row.content for row in read_examples(self.source))
        truth = (record for record in records if isinstance(record, Example))
        judge = open_reference(self.judge, self.options, truth=truth)
        return lambda rows: judge_rows(rows, judge, orders=self.orders)


def judge_rows(rows: Sequence[Row], judge: BaseJudge, *, orders: Literal[1, 2] = 2) -> OutputRows:
    """Judge rows of a file.

    One candidate is scored, two are compared, more are ranked by score; of a pairs row chosen and
    rejected are compared. A row that cannot be used, or has no candidates, is ``failed``.

    Args:
        rows: Rows, as from `read_examples`.
        judge: A judge, as from `open_judge`.
        orders: Orders in which a comparison is asked.

    Returns:
        One verdict row for each row, in order.
    """
    samples = [row.content.as_samples() if isinstance(row.content, Example) else [] for row in rows]
    single = [each[0] for each in samples if len(each) == 1]
    verdicts = iter(judge.ask(single, orders=orders) if single else ())
    results = [
        next(verdicts) if len(each) == 1 else _rank(row, each, judge)
        for row, each in zip(rows, samples, strict=True)
    ]
    return [
        verdict_row(row.id, result, judge=judge.name, family=judge.family)
        for row, result in zip(rows, results, strict=True)
    ]


def _rank(row: Row, samples: Sequence[Sample], judge: BaseJudge) -> Verdict | Ranking:
    """Rank by score; the first verdict where no candidate has a score."""
    if isinstance(row.content, Failed):
        return row.content
    if not samples:
        kind = "a published conversation" if row.content.messages else "a prompt"
        return Failed(f"{kind} without candidates cannot be judged")
    ranking = judge.rank_samples(lambda *indices: samples[indices[0]], len(samples))
    return ranking if ranking.order else ranking.verdicts[0]
