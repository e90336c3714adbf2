"""Rewards of a request on a wire of others: one number for each item, or the reason for none.

Requests are translated into items of the server's own protocol, which reads them. What the wires
share is here: the judge of a path, the scale of its numbers, and refusals.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.ranking import overall_value
from unified_reward.core.samples import Sample
from unified_reward.core.verdicts import Failed, Scored, Unparsed, Verdict
from unified_reward.serve.protocol import Files, read_items, read_json, schema_of
from unified_reward.serve.service import RequestError, Service
from unified_reward_client import SCALES


Row = Mapping[str, Any]
"""An item of the server's own protocol, as JSON."""
_log = logging.getLogger(__name__)
_NAMED_REASONS = 5
_M = TypeVar("_M", bound=BaseModel)


def check_scales(service: Service) -> None:
    """Check the names in the scales of a server.

    Raises:
        ConfigError: A judge or a scale does not exist.
    """
    judges = service.host.states()
    for judge, scale in service.config.scales.items():
        for given, known in ((judge, judges), (scale, SCALES)):
            if given not in known:
                raise ConfigError(
                    f"--scale {judge}={scale}: there is no {given}; there are {', '.join(known)}"
                )


@dataclass(frozen=True)
class Wire:
    """A POST route as a project's clients expect it."""

    path: str
    answer: Callable[[Service, Request], Awaitable[Response]]
    """Answers a request; its docstring is the summary of the route."""
    refuse: Callable[[int, str], Response]
    """Writes a status and a message."""
    body: type[BaseModel] | None = None
    """Model of a JSON body, for the OpenAPI page."""
    unreadable: int = 400
    """Status of a request that cannot be read."""
    has_judge: bool = True
    """True for a route of the only judge, with another below ``/j/NAME`` for a judge by name; False
    where requests name their judges themselves."""

    def add_to(self, router: APIRouter, service: Service) -> None:
        """Add the route."""

        async def handler(request: Request) -> Response:
            try:
                return await self.answer(service, request)
            except DataError as error:
                return self.refuse(self.unreadable, str(error))
            except RequestError as error:
                # Some clients do not show what they are answered.
                _log.warning("%s: %s", self.path, error)
                response = self.refuse(error.status, str(error))
                if error.retry_after_s:
                    response.headers["Retry-After"] = str(error.retry_after_s)
                return response

        schema = schema_of(self.body) if self.body else {"type": "string"}
        content_type = "application/json" if self.body else "application/octet-stream"
        documented = {"required": True, "content": {content_type: {"schema": schema}}}
        for prefix in ("", "/j/{name:path}") if self.has_judge else ("",):
            router.add_api_route(
                (prefix + self.path).rstrip("/") or "/",
                handler,
                methods=["POST"],
                summary=self.answer.__doc__,
                openapi_extra={"requestBody": documented},
            )


async def read_body(request: Request, model: type[_M]) -> _M:
    """The body of a request, of JSON.

    Raises:
        DataError: It is not JSON, or a field is wrong.
    """
    return await asyncio.to_thread(read_json, await request.body(), model)


async def read_samples(
    service: Service, rows: Sequence[Row], files: Files | None = None
) -> list[Sample | Failed]:
    """The sample of each item, or the reason why there is none.

    Raises:
        DataError: There are too many.
    """
    items = await asyncio.to_thread(read_items, "score", rows, files or {}, service.config)
    service.log_prompts(items)
    return [item.failure or item.samples[0] for item in items]


async def judge_rows(
    service: Service, request: Request, rows: Sequence[Row], files: Files | None = None
) -> list[tuple[float, Scored]]:
    """Rewards of all items with their verdicts, by the judge that the path names.

    Clients of these wires compute with what they get, so a request in which one item has no reward
    is refused as a whole.

    Raises:
        RequestError: The judge is unknown, not ready or busy, or an item has no reward; names the
            items and reasons.
        DataError: There are too many items.
    """
    name = request.path_params.get("name")
    (name,) = service.names(None if name is None else [name])
    samples = await read_samples(service, rows, files)
    verdicts = await service.ask(request, name, [[sample] for sample in samples])
    scale = service.config.scales.get(name, "raw")
    rewards = [reward_of(verdict, scale) for verdict in verdicts]
    reasons = [
        f"item {i}: {one.reason}" for i, one in enumerate(rewards) if isinstance(one, Failed)
    ]
    if reasons:
        named = "; ".join(reasons[:_NAMED_REASONS]) + "; …" * (len(reasons) > _NAMED_REASONS)
        raise RequestError(
            422, "no_reward", f"{len(reasons)} of {len(rows)} items have no reward: {named}"
        )
    return cast("list[tuple[float, Scored]]", list(zip(rewards, verdicts, strict=True)))


def reward_of(verdict: Verdict, scale: str = "raw") -> float | Failed:
    """The overall value of a verdict on a named scale, or the reason why there is none.

    A verdict of aspects alone gives the mean of its aspects on [0, 1], whatever the scale.

    >>> from unified_reward.core.verdicts import Scale, Score
    >>> reward_of(Scored(Score(4.0, Scale(1, 5))), "unifiedreward/5")
    0.8
    >>> reward_of(Unparsed("no score in the answer")).reason
    'the answer is unreadable: no score in the answer'
    """
    if isinstance(verdict, Failed):
        return verdict
    if isinstance(verdict, Unparsed):
        return Failed(f"the answer is unreadable: {verdict.reason}")
    value = overall_value(verdict)
    if value is None:
        return Failed("the verdict has no overall value, and no aspects on closed scales")
    if isinstance(verdict, Scored) and verdict.score is not None:
        value = (value + SCALES[scale].offset) / SCALES[scale].divisor
    return float(value) if math.isfinite(value) else Failed(f"the reward {value} is not finite")


def refuse_with(key: str) -> Callable[[int, str], Response]:
    """Writer of refusals as JSON with the message under a key."""
    return lambda status, message: JSONResponse({key: message}, status)
