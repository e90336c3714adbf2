"""Judges by name, wherever they run."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal, Protocol

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import UnifiedRewardError, one_line
from unified_reward.core.samples import Sample
from unified_reward.core.verdicts import Failed, Verdict
from unified_reward.judges.registry import DEFAULT_OPTIONS, JudgeOptions, applicable, open_reference
from unified_reward.serve.batching import BatchQueue, ClosedError, Job, Orders
from unified_reward.serve.config import ServeConfig
from unified_reward.serve.media import CheckedSample, MediaCache, MemoryFullError, Room
from unified_reward.serve.metrics import Metrics


State = Literal["loading", "ready", "failed"]
Groups = Sequence[Sequence[Sample | Failed]]
_log = logging.getLogger(__name__)


class NotReadyError(UnifiedRewardError):
    """A judge is still loading, or could not be loaded."""

    def __init__(self, name: str, state: State, reason: str | None) -> None:
        verb = "is loading" if state == "loading" else "could not be loaded"
        super().__init__(f"{name} {verb}" + (f": {reason}" if reason else ""))
        self.state: State = state


def load_error(error: Exception) -> str:
    """Reason why a judge could not be loaded."""
    is_known = isinstance(error, UnifiedRewardError)
    return str(error) if is_known else f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class JudgeReference:
    """A judge to serve."""

    name: str
    reference: str
    options: JudgeOptions = DEFAULT_OPTIONS
    """Options of all judges; those that do not apply to this one are passed over."""

    def open(self) -> BaseJudge:
        """Load the judge with the options that apply to its kind."""
        return open_reference(self.reference, applicable(self.reference, self.options))


class Host(Protocol):
    """Judges by name: opens them in the background and puts samples to them."""

    def start(self) -> None:
        """Begin to load the judges."""
        ...

    def states(self) -> Mapping[str, State]:
        """State of each judge."""
        ...

    def family(self, name: str) -> str:
        """Prompt family of a judge; empty while it is not loaded."""
        ...

    def roster(self) -> list[dict[str, Any]]:
        """Name, reference, state and description of each judge, as JSON."""
        ...

    async def ask(
        self, name: str, groups: Groups, *, orders: Orders, timeout_s: float
    ) -> list[Verdict]:
        """Put samples to a judge.

        Args:
            name: One of the names of `states`.
            groups: Samples that are asked in one batch each; one that failed is handed through.
            orders: Orders in which a comparison is asked.
            timeout_s: Samples without a verdict after this time fail.

        Returns:
            A verdict for each sample of the groups, in order.

        Raises:
            NotReadyError: The judge is not loaded.
            QueueFullError: The judge has too many samples already.
            MemoryFullError: Decoded media of all requests take too much memory.
            ClosedError: The server is shutting down.
        """
        ...

    def close(self) -> None:
        """Judge what waits, and end."""
        ...


@dataclass
class _Hosted:
    """A judge of this process."""

    reference: JudgeReference
    state: State = "loading"
    reason: str | None = None
    queue: BatchQueue | None = None


class LocalHost:
    """Judges in this process: a queue and a model thread each, decoding in threads beside them."""

    def __init__(
        self, references: Sequence[JudgeReference], config: ServeConfig, metrics: Metrics
    ) -> None:
        self._hosted = {one.name: _Hosted(one) for one in references}
        self._config = config
        self._metrics = metrics
        self._media = MediaCache(
            config.media_limits, config.media_cache_bytes, config.max_decoded_bytes
        )
        self._decoders = ThreadPoolExecutor(config.decode_threads, "decode")
        self._is_closed = False

    def start(self) -> None:
        """Load the judges one after another in a thread."""
        threading.Thread(target=self._load, name="load judges", daemon=True).start()

    def add(self, name: str, judge: BaseJudge) -> None:
        """Serve a judge that is open already."""
        hosted = self._hosted.setdefault(name, _Hosted(JudgeReference(name, judge.name)))
        hosted.queue = BatchQueue(name, judge, self._config, self._metrics)
        hosted.state = "ready"

    def states(self) -> dict[str, State]:
        """State of each judge."""
        return {name: hosted.state for name, hosted in self._hosted.items()}

    def family(self, name: str) -> str:
        """Prompt family of a judge; empty while it is not loaded."""
        queue = self._hosted[name].queue
        return queue.judge.family if queue else ""

    def roster(self) -> list[dict[str, Any]]:
        """Name, reference, state and description of each judge, as JSON."""
        return [
            {
                **(hosted.queue.judge.describe() if hosted.queue else {}),
                "name": name,
                "reference": hosted.reference.reference,
                "state": hosted.state,
                "reason": hosted.reason,
            }
            for name, hosted in self._hosted.items()
        ]

    async def ask(
        self, name: str, groups: Groups, *, orders: Orders, timeout_s: float
    ) -> list[Verdict]:
        """Decode the samples in threads and put them to a judge; see `Host.ask`."""
        queue = self._queue(name)
        loop = asyncio.get_running_loop()
        end, late = loop.time() + timeout_s, f"no verdict within {timeout_s:g} s"
        with queue.reserve(sum(map(len, groups))), self._media.room() as room:
            try:
                async with asyncio.timeout_at(end):
                    each = iter(await self._check_all([*chain(*groups)], room))
            except TimeoutError:
                return [Failed(late) for group in groups for _ in group]
            checked = [list(islice(each, len(group))) for group in groups]
            readable = [[one for one in group if not isinstance(one, Failed)] for group in checked]
            job = queue.submit(filter(None, readable), orders)
            verdicts = iter(await self._verdicts(queue, job, end - loop.time(), late))
            return [
                one if isinstance(one, Failed) else next(verdicts)
                for group in checked
                for one in group
            ]

    async def _verdicts(
        self, queue: BatchQueue, job: Job, timeout_s: float, late: str
    ) -> list[Verdict]:
        waiting = asyncio.wrap_future(job.done)
        try:
            await asyncio.wait({waiting}, timeout=timeout_s)
            if waiting.done():
                return waiting.result()
            return job.verdicts(late)
        finally:
            queue.withdraw(job)

    async def _check_all(
        self, samples: Sequence[Sample | Failed], room: Room
    ) -> list[CheckedSample | Failed]:
        """Decode in all threads, each of which takes its share of the samples."""
        n = min(self._config.decode_threads, len(samples))
        loop = asyncio.get_running_loop()
        shares = [
            loop.run_in_executor(self._decoders, self._check_share, samples[i::n], room)
            for i in range(n)
        ]
        checked: list[Any] = [None] * len(samples)
        for i, share in enumerate(await asyncio.gather(*shares)):
            checked[i::n] = share
        return checked

    def _check_share(
        self, samples: Sequence[Sample | Failed], room: Room
    ) -> list[CheckedSample | Failed]:
        return [self._checked(sample, room) for sample in samples]

    def _checked(self, sample: Sample | Failed, room: Room) -> CheckedSample | Failed:
        if isinstance(sample, Failed):
            return sample
        try:
            return self._media.check(sample, room)
        except MemoryFullError:
            raise
        except UnifiedRewardError as error:
            return Failed.from_error(error)
        except Exception as error:  # noqa: BLE001  a decoder of anybody: it fails one item alone
            _log.warning("a medium could not be decoded: %r", error)
            return Failed(f"the media cannot be read: {type(error).__name__}: {one_line(error)}")

    def _queue(self, name: str) -> BatchQueue:
        hosted = self._hosted[name]
        if self._is_closed:
            raise ClosedError("the server is shutting down")
        if hosted.queue is None:
            raise NotReadyError(name, hosted.state, hosted.reason)
        return hosted.queue

    def _load(self) -> None:
        """Open the judges; none is asked before all are open.

        While a checkpoint is loaded, transformers changes the default dtype of all threads.
        """
        judges: dict[str, BaseJudge] = {}
        for name, hosted in self._hosted.items():
            if hosted.queue is not None:
                continue
            try:
                judges[name] = hosted.reference.open()
            except Exception as error:  # noqa: BLE001  of any model; the others are to be served
                hosted.reason = load_error(error)
                hosted.state = "failed"
                _log.error("%s could not be loaded: %s", name, hosted.reason)
            else:
                _log.info("%s is loaded", name)
        for name, judge in judges.items():
            self.add(name, judge)

    def close(self) -> None:
        """Judge what waits, and end the threads."""
        self._is_closed = True
        for hosted in self._hosted.values():
            if hosted.queue is not None:
                hosted.queue.close()
        self._decoders.shutdown(cancel_futures=True)
