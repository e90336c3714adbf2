"""Batches across requests: one bounded queue and one model thread for each judge.

Knows samples and verdicts, not HTTP.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import UnifiedRewardError, one_line
from unified_reward.core.samples import Sample
from unified_reward.core.verdicts import Failed, Preferred, Scored, Unparsed, Verdict
from unified_reward.io.verdict_rows import verdict_row
from unified_reward.serve.config import ServeConfig
from unified_reward.serve.media import CheckedSample
from unified_reward.serve.metrics import Metrics


Orders = Literal[1, 2]
_log = logging.getLogger(__name__)


class QueueFullError(UnifiedRewardError):
    """A judge has as many samples as it may have; ask again later."""


class ClosedError(UnifiedRewardError):
    """The server is shutting down."""


@dataclass(frozen=True, eq=False)
class _Question:
    """Samples of one job that are asked in the same batch."""

    job: Job
    place: int
    samples: Sequence[CheckedSample]
    orders: Orders
    arrived: float


class Job:
    """Verdicts of one request, as they arrive."""

    def __init__(self, n: int) -> None:
        self.done: Future[list[Verdict]] = Future()
        """Set when every verdict is there; cancelled when nobody waits any more."""
        self._verdicts: list[Verdict | None] = [None] * n
        self._left = n
        if n == 0:
            self.done.set_result([])

    def put(self, place: int, verdicts: Sequence[Verdict]) -> None:
        """Store verdicts from an index on; called by one thread."""
        self._verdicts[place : place + len(verdicts)] = verdicts
        self._left -= len(verdicts)
        if self._left == 0 and self.done.set_running_or_notify_cancel():
            self.done.set_result(self.verdicts())

    def verdicts(self, missing: str = "") -> list[Verdict]:
        """All verdicts; those that are not there yet fail with the reason ``missing``."""
        return [verdict or Failed(missing) for verdict in self._verdicts]


class BatchQueue:
    """Asks a judge in batches that form across requests.

    Equal questions of a batch are asked once, and the latest verdicts are kept. A batch in which
    the judge raises is asked sample by sample, so that an item fails alone.
    """

    def __init__(self, name: str, judge: BaseJudge, config: ServeConfig, metrics: Metrics) -> None:
        self.judge = judge
        self._name = name
        self._config = config
        self._metrics = metrics
        self._waiting: deque[_Question] = deque()
        self._changed = threading.Condition()
        self._n_pending = 0
        self._is_closed = False
        self._cache: OrderedDict[tuple[bytes, Orders], Verdict] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name=f"judge {name}", daemon=True)
        self._thread.start()

    @contextmanager
    def reserve(self, n: int) -> Generator[None]:
        """Take n places of the queue until the block ends.

        Raises:
            QueueFullError: There are fewer.
            ClosedError: The queue takes no more.
        """
        with self._changed:
            if self._is_closed:
                raise ClosedError("the server is shutting down")
            if self._n_pending + n > self._config.max_queue:
                raise QueueFullError(
                    f"{self._name} has {self._n_pending} samples to judge and takes "
                    f"{self._config.max_queue}; {n} more do not fit"
                )
            self._n_pending += n
            self._metrics.pending.labels(self._name).set(self._n_pending)
        try:
            yield
        finally:
            with self._changed:
                self._n_pending -= n
                self._metrics.pending.labels(self._name).set(self._n_pending)
                self._changed.notify_all()

    def submit(self, groups: Iterable[Sequence[CheckedSample]], orders: Orders) -> Job:
        """Queue the samples of a request; a group is asked in one batch.

        Returns:
            The job, with a verdict for each sample in order.
        """
        groups = list(groups)
        job = Job(sum(map(len, groups)))
        now, place = time.monotonic(), 0
        with self._changed:
            for samples in groups:
                self._waiting.append(_Question(job, place, samples, orders, now))
                place += len(samples)
            self._changed.notify_all()
        return job

    def withdraw(self, job: Job) -> None:
        """Drop what is left of a job that nobody waits for."""
        if job.done.cancel():
            with self._changed:
                kept = [question for question in self._waiting if question.job is not job]
                self._waiting = deque(kept)
                self._changed.notify_all()

    def close(self) -> None:
        """Take no more samples, judge those that wait, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            by_orders: dict[Orders, list[_Question]] = {}
            for question in batch:
                by_orders.setdefault(question.orders, []).append(question)
            for orders, questions in by_orders.items():
                self._answer(questions, orders)

    def _next_batch(self) -> list[_Question] | None:
        """Wait for samples, and for those still being decoded; None when the queue is closed."""
        with self._changed:
            while not self._waiting:
                if self._is_closed:
                    return None
                self._changed.wait()
            end = self._waiting[0].arrived + self._config.max_wait_ms / 1000
            while not self._is_full() and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            batch, n = [], 0
            while self._waiting and (
                not batch or n + len(self._waiting[0].samples) <= self._config.max_batch
            ):
                question = self._waiting.popleft()
                if not question.job.done.cancelled():
                    batch.append(question)
                    n += len(question.samples)
            return batch

    def _is_full(self) -> bool:
        """True if no more samples fit, or no request has any that are still to come."""
        n = sum(len(question.samples) for question in self._waiting)
        return self._is_closed or n >= min(self._config.max_batch, self._n_pending)

    def _answer(self, questions: Sequence[_Question], orders: Orders) -> None:
        wanted = {one.key: one.sample for question in questions for one in question.samples}
        known = {key: self._cache[key, orders] for key in wanted if (key, orders) in self._cache}
        new = {key: sample for key, sample in wanted.items() if key not in known}
        n_samples = sum(len(question.samples) for question in questions)
        self._metrics.repeated.labels(self._name).inc(n_samples - len(new))
        if new:
            known |= zip(new, self._ask(list(new.values()), orders), strict=True)
        self._keep({key: known[key] for key in wanted}, orders)
        for question in questions:
            question.job.put(question.place, [known[one.key] for one in question.samples])

    def _keep(self, verdicts: dict[bytes, Verdict], orders: Orders) -> None:
        for key, verdict in verdicts.items():
            if not isinstance(verdict, Failed):
                self._cache[key, orders] = verdict
                self._cache.move_to_end((key, orders))
        while len(self._cache) > self._config.verdict_cache:
            self._cache.popitem(last=False)

    def _ask(self, samples: Sequence[Sample], orders: Orders) -> list[Verdict]:
        start = time.monotonic()
        try:
            with self.judge.cache_media():
                verdicts = self.judge.ask(samples, orders=orders)
            if len(verdicts) != len(samples):
                raise ValueError(f"{len(verdicts)} verdicts on {len(samples)} samples")
            for sample, verdict in zip(samples, verdicts, strict=True):
                _check(sample, verdict)
        except (Exception, SystemExit) as error:  # noqa: BLE001  a judge of anybody: its thread must go on
            _log.warning("%s failed on %d samples: %r", self._name, len(samples), error)
            if len(samples) == 1:
                return [Failed(f"{self._name} failed: {type(error).__name__}: {one_line(error)}")]
            return [verdict for sample in samples for verdict in self._ask([sample], orders)]
        self._metrics.batch_samples.labels(self._name).observe(len(samples))
        self._metrics.batch_seconds.labels(self._name).observe(time.monotonic() - start)
        return verdicts


def _check(sample: Sample, verdict: Verdict) -> None:
    """Check that a verdict answers its question, and can be sent.

    Raises:
        TypeError: It is of another type, or holds values that JSON does not.
        ValueError: It holds numbers that are not finite.
    """
    answer = Scored if sample.form == "score" else Preferred
    if not isinstance(verdict, answer | Unparsed | Failed):
        raise TypeError(f"{type(verdict).__name__} is no verdict on a question for a {sample.form}")
    json.dumps(verdict_row("", verdict, judge="", family=""), allow_nan=False)
