"""Bulk work over a file of rows: in order, resumable, in this process or on a Ray cluster.

Rows are worked on in chunks that begin at the same rows whenever a run is started, so that a run
that was stopped makes the same batches, and the same numbers, as one that was not. The file is
read once, row by row; of one that has not changed, a run that goes on reads the new rows alone.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import DataError, UnifiedRewardError
from unified_reward.core.extensions import require
from unified_reward.core.samples import Example, Sample
from unified_reward.core.verdicts import Failed, Ranking, Verdict
from unified_reward.io.journal import FINGERPRINT, Journal
from unified_reward.io.row_file import RowFile, media_of
from unified_reward.io.rows import Row, read_examples
from unified_reward.io.run_config import Origin, Rows
from unified_reward.io.text import LinePlace
from unified_reward.io.verdict_rows import verdict_row
from unified_reward.judges.files import judge_files
from unified_reward.judges.registry import JudgeOptions, open_reference


OutputRows = list[dict[str, Any]]
Worker = Callable[[Sequence[Row]], OutputRows]
"""Makes one output row of every input row, in order."""
CHUNK = 64
"""Rows that are judged and then appended together: a kill costs these at most, several
windows of a judge (`BaseJudge.window`) that share decoded media."""
_CHECKPOINT_S = 2.0
"""Seconds between two checkpoints, whose rows a run that goes on does not read again."""
_CHUNKS_PER_WORKER = 2
"""Chunks sent to each Ray worker ahead of the one that is waited for."""


class Engine(StrEnum):
    """Place where the work is done."""

    LOCAL = "local"
    RAY = "ray"


class Work(Protocol):
    """Kind of work, as a value that can be sent to another machine."""

    @property
    def origin(self) -> Origin:
        """Everything that decides its rows."""
        ...

    def open(self) -> Worker:
        """Load what the work needs, such as a judge."""
        ...


class FinishedChunk(NamedTuple):
    """Rows that are in the journal now."""

    ids: tuple[str, ...]
    """Ids of the input rows."""
    rows: OutputRows
    """Output rows that were just appended; without those that were there before."""
    unread: Mapping[str, int] = {}
    """Number by outcome of rows before, that were done and did not have to be read again."""


def run(
    work: Work,
    read: Rows,
    journal: Journal,
    *,
    size: int,
    engine: Engine = Engine.LOCAL,
    workers: int = 1,
    retry_failed: bool = False,
) -> Iterator[FinishedChunk]:
    """Do the work that the journal lacks, chunk by chunk, and append its rows.

    Args:
        work: Kind of work.
        read: Reads the whole input, also rows that are done already; called once, and once more
            to check the rows of an earlier run. Of a `RowFile` the begin is known by its hash.
        journal: Finished rows; appended to.
        size: Rows of a chunk, >= 1.
        engine: ``ray`` joins the cluster of ``RAY_ADDRESS``, or starts one here.
        workers: Ray actors, each with a judge of its own, and a GPU where there are some.
        retry_failed: Make failed rows again, each without the finished rows of its chunk.

    Returns:
        Every chunk of the input, once it is finished. Those done before come without rows, with
        ``ray`` as soon as they are read; where a file has not changed, the first chunk counts them.

    Raises:
        ConfigError: The judge cannot be opened, Ray is not installed, or the journal was made with
            other settings, files or inputs.
        DataError: The disk is full, or the journal is another judge's; appended rows stay.
    """
    if "judge" in work.origin.config and ("None", "None") in journal.judges:
        raise DataError(f"{journal.path} holds rows that no judge made; give another output file")
    place = work.origin.resume(journal, read, retry_failed=retry_failed)
    tasks = _tasks(read, journal, place, size, missing_only=retry_failed)
    run_tasks = _run_here if engine is Engine.LOCAL else _run_on_ray
    unread = journal.checkpoint.outcomes if place and journal.checkpoint else {}
    return _append(run_tasks(work, tasks, workers), work.origin, journal, read, unread)


def _append(
    finished: Iterable[tuple[_Task, OutputRows]],
    origin: Origin,
    journal: Journal,
    read: Rows,
    unread: Mapping[str, int],
) -> Iterator[FinishedChunk]:
    if unread:
        yield FinishedChunk((), [], unread)
    is_checked = False
    written = time.monotonic()
    for task, made in finished:
        new = [row for row in made if row["id"] not in journal.done]
        if new:
            if not is_checked:
                # Now that the judge is open, as opening it may fetch its files.
                origin.check(journal)
                is_checked = True
            journal.append(new)
        is_due = time.monotonic() - written > _CHECKPOINT_S
        if is_due and task.place and len(journal.done) == task.n_rows:
            journal.add_checkpoint(origin.about(read), task.place)
            written = time.monotonic()
        yield FinishedChunk(tuple(row.id for row in task.chunk), new)


class _Task(NamedTuple):
    """A chunk of the input, and those of its rows that are worked on."""

    chunk: list[Row]
    to_do: list[Row]
    n_rows: int
    """Rows of the input up to the end of the chunk."""
    place: LinePlace | None
    """End of the chunk in its file; None for a chunk that is not whole, where no run goes on."""


def _tasks(
    read: Rows, journal: Journal, place: LinePlace | None, size: int, *, missing_only: bool
) -> Iterator[_Task]:
    """Read the rows behind a place, or all, chunk by chunk."""
    n_rows, moving = 0, None
    if isinstance(read, RowFile):
        moving = place.copy() if place else LinePlace()
        n_rows = journal.before_checkpoint.n if place else 0
        source = read.after(moving, journal.before_checkpoint)
    else:
        source = iter(read())
    while chunk := list(islice(source, size)):
        n_rows += len(chunk)
        to_do = _to_do(chunk, journal, missing_only=missing_only)
        if to_do and moving:
            journal.checkpoints.note(medium for row in chunk for medium in media_of(row))
        is_whole = moving is not None and len(chunk) == size
        yield _Task(chunk, to_do, n_rows, moving.copy() if moving and is_whole else None)


def _to_do(chunk: list[Row], journal: Journal, *, missing_only: bool) -> list[Row]:
    """All rows of a chunk that lacks some, so that its batches are those of any other run."""
    missing = [row for row in chunk if row.id not in journal.done]
    return missing if missing_only or not missing else chunk


def _work_on(rows: Sequence[Row], worker: Worker, origin: Origin) -> OutputRows:
    """Work on rows whose fingerprints are taken before, so that a later change is seen."""
    fingerprints = [origin.fingerprint(row) for row in rows]
    return [
        row | {FINGERPRINT: fingerprint}
        for row, fingerprint in zip(worker(rows), fingerprints, strict=True)
    ]


def _run_here(work: Work, tasks: Iterator[_Task], _: int) -> Iterator[tuple[_Task, OutputRows]]:
    actor = _Actor(work)
    for task in tasks:
        yield task, actor.run(task.to_do) if task.to_do else []


class _Actor:
    """Opens its work at the first chunk; with Ray, in another process."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._worker: Worker | None = None

    def run(self, rows: Sequence[Row]) -> OutputRows:
        self._worker = self._worker or self._work.open()
        return _work_on(rows, self._worker, self._work.origin)


def _run_on_ray(
    work: Work, tasks: Iterator[_Task], workers: int
) -> Iterator[tuple[_Task, OutputRows]]:
    """Keep a bounded number of chunks with the actors; results come in the order of the input."""
    ray: Any = require("ray", "ray")
    pool: Any = None
    sent: deque[_Task] = deque()
    for task in tasks:
        if not task.to_do:
            yield task, []
            continue
        pool = pool or _start_actors(work, workers)
        pool.submit(lambda actor, rows: actor.run.remote(rows), task.to_do)
        sent.append(task)
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

    @property
    def origin(self) -> Origin:
        """Settings and files of the judge, and the question; for its answers also the targets."""
        config = {"judge": self.judge, **self.options.settings(), "orders": self.orders}
        reads = ("task", "prompt", "candidates", "context", "criteria", "pair")
        reads += ("target",) if self.judge == "scripted:perfect" else ()
        return Origin(config, partial(judge_files, self.judge, self.options), reads)

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
