"""Answers of the server to requests, whatever their protocol."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
from collections.abc import Awaitable, Iterable, Sequence
from typing import TypeVar

from fastapi import Request

from unified_reward.core.verdicts import Failed, Preferred, Scored, Unparsed, Verdict
from unified_reward.serve.batching import ClosedError, Orders, QueueFullError
from unified_reward.serve.config import ServeConfig
from unified_reward.serve.hosts import Groups, Host, NotReadyError
from unified_reward.serve.media import MemoryFullError
from unified_reward.serve.metrics import Metrics
from unified_reward.serve.protocol import Item


_prompts = logging.getLogger("unified_reward.serve.prompts")
RETRY_AFTER_S = 1
_STATUS: dict[type[Verdict], str] = {
    Scored: "scored",
    Preferred: "preferred",
    Unparsed: "unparsed",
    Failed: "failed",
}
_T = TypeVar("_T")


class RequestError(Exception):
    """A request that is refused as a whole, with its HTTP status."""

    def __init__(self, status: int, kind: str, message: str, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.retry_after_s = retry_after_s


class Disconnected(Exception):  # noqa: N818  no error, and nobody is left to be answered
    """The client went away."""


class Service:
    """A host of judges with the limits and figures of the server."""

    def __init__(self, host: Host, config: ServeConfig, metrics: Metrics) -> None:
        self.host = host
        self.config = config
        self.metrics = metrics

    def names(self, given: Sequence[str] | None) -> list[str]:
        """Names of the judges that a request is for.

        Raises:
            RequestError: A judge is not known, or none is named and there are several.
        """
        known = self.host.states()
        if given is None and len(known) == 1:
            return list(known)
        if not given:
            raise RequestError(400, "no_judge", f"name a judge: {', '.join(known)}")
        for name in given:
            if name not in known:
                raise RequestError(
                    404, "unknown_judge", f"there is no judge {name!r}; served: {', '.join(known)}"
                )
        return list(dict.fromkeys(given))

    def log_prompts(self, items: Iterable[Item]) -> None:
        """Log the prompts of items, if the server is to."""
        if self.config.log_prompts:
            for item in items:
                for sample in item.samples[:1]:
                    _prompts.info("%r %r", item.id, sample.prompt)

    async def ask(
        self,
        request: Request,
        name: str,
        groups: Groups,
        *,
        orders: Orders = 2,
        timeout_s: float | None = None,
    ) -> list[Verdict]:
        """Put samples to a judge while the client is connected; see `hosts.Host.ask`.

        Raises:
            RequestError: The judge is not ready, or has no place for the samples.
            Disconnected: The client went away; its samples have left the queue.
        """
        limit_s = min(timeout_s or self.config.timeout_s, self.config.timeout_s)
        try:
            verdicts = await while_connected(
                request, self.host.ask(name, groups, orders=orders, timeout_s=limit_s)
            )
        except (QueueFullError, MemoryFullError) as error:
            raise RequestError(429, "queue_full", str(error), RETRY_AFTER_S) from error
        except ClosedError as error:
            raise RequestError(503, "closing", str(error), RETRY_AFTER_S) from error
        except NotReadyError as error:
            retry_after_s = RETRY_AFTER_S if error.state == "loading" else 0
            raise RequestError(503, error.state, str(error), retry_after_s) from error
        for verdict in verdicts:
            status = next(_STATUS[kind] for kind in _STATUS if isinstance(verdict, kind))
            self.metrics.verdicts.labels(name, status).inc()
        return verdicts

    def is_authorised(self, header: str | None) -> bool:
        """True for the right ``Authorization`` header, and where no token is set.

        The token is a bearer's, or the password of any user: trainers whose clients know no tokens
        take a URL such as ``http://user:TOKEN@host:8100``.
        """
        if self.config.token is None:
            return True
        kind, _, given = (header or "").partition(" ")
        content = given.encode(errors="surrogateescape")
        if kind.lower() == "basic":
            try:
                content = base64.b64decode(content, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif kind.lower() != "bearer":
            return False
        return hmac.compare_digest(content, self.config.token.encode())


async def while_connected(request: Request, work: Awaitable[_T]) -> _T:
    """Await work; cancel it when the client of the request goes away.

    Raises:
        Disconnected: The client went away.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Disconnected
    finally:
        watcher.cancel()
        task.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
