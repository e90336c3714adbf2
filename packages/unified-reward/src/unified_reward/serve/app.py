"""The application: routes of the server's own protocol, with those of others beside."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, cast, get_args

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from unified_reward.core.errors import DataError
from unified_reward.core.verdicts import Failed
from unified_reward.serve import page, peers
from unified_reward.serve.config import ServeConfig
from unified_reward.serve.guard import Guard, error_response
from unified_reward.serve.hosts import Host
from unified_reward.serve.metrics import Metrics
from unified_reward.serve.protocol import (
    DocumentedRequest,
    Question,
    TooManyError,
    Verb,
    read_request,
    schema_of,
)
from unified_reward.serve.service import RETRY_AFTER_S, Disconnected, RequestError, Service


_SMALL = 64 * 1024
"""Bytes of a body that is read sooner than a thread begins."""
_log = logging.getLogger(__name__)


class _InMemoryParser(MultiPartParser):
    """Parser that writes no temporary files: bodies are bounded already."""

    spool_max_size = 2**62


def create_app(host: Host, config: ServeConfig, metrics: Metrics) -> FastAPI:
    """Build the application.

    Args:
        host: Judges by name; started and closed with the application.
        config: Limits, token and wires.
        metrics: Figures; those of the host.
    """
    service = Service(host, config, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        host.start()
        yield
        await asyncio.to_thread(host.close)

    app = FastAPI(
        title="Reward server",
        version=version("unified-reward"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Guard, service=service)
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Disconnected, _disconnected)
    app.add_exception_handler(ClientDisconnect, _disconnected)
    app.add_exception_handler(Exception, _internal_error)
    app.include_router(_own_routes(service))
    app.include_router(page.routes())
    app.add_api_route("/docs", lambda: page.documentation(app.openapi()), include_in_schema=False)
    app.include_router(peers.routes(service))
    return app


async def _request_error(_: Request, error: Exception) -> Response:
    return error_response(cast("RequestError", error))


async def _no_route(request: Request, error: Exception) -> Response:
    """Refuse a path or a method that is not served."""
    refused = cast("HTTPException", error)
    message = f"{request.method} {request.url.path}: {refused.detail}"
    if request.method == "POST" and re.fullmatch(r"/(j/[^/]+)?", request.url.path):
        message += "; the wires of pickles are served with --accept-pickle"
        _log.warning("%r", message)
    response = error_response(RequestError(refused.status_code, "no_route", message))
    response.headers.update(refused.headers or {})
    return response


async def _disconnected(_: Request, __: Exception) -> Response:
    return Response(status_code=499)


async def _internal_error(request: Request, error: Exception) -> Response:
    _log.error("%r failed", request.url.path, exc_info=error)
    return error_response(RequestError(500, "internal", "the server failed; its log says why"))


def _own_routes(service: Service) -> APIRouter:
    router = APIRouter()
    for verb in get_args(Verb):
        router.add_api_route(
            f"/v1/{verb}",
            _verb_route(service, verb),
            methods=["POST"],
            summary=_SUMMARIES[verb],
            openapi_extra=_REQUEST,
        )

    @router.get("/v1/judges")
    def judges() -> JSONResponse:
        """Judges of this server: tasks, scales, aspects, licence, revision and state."""
        return JSONResponse({"judges": service.host.roster()})

    @router.get("/health")
    def health() -> JSONResponse:
        """State of each judge; status 200 when at least one is ready and none is loading."""
        states = service.host.states()
        found = set(states.values())
        status = "loading" if "loading" in found else "ok" if "ready" in found else "failed"
        rewards = {name: [{"state": state}] for name, state in states.items() if state != "failed"}
        content = {"status": status, "judges": dict(states), "rewards": rewards}
        headers = {"Retry-After": str(RETRY_AFTER_S)} if status == "loading" else None
        return JSONResponse(content, 200 if status == "ok" else 503, headers)

    @router.get("/metrics")
    def metrics() -> Response:
        """Figures in the text format of Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    return router


_SUMMARIES = {
    "score": "Score one candidate an item.",
    "compare": "Compare the two candidates of each item.",
    "rank": "Rank the candidates of each item, by score or by pairs.",
    "group": "Scores of the candidates of each item, and win rates over all their pairs.",
}
_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": schema_of(DocumentedRequest)}},
    }
}


def _verb_route(service: Service, verb: Verb) -> Any:
    async def answer(request: Request) -> Response:
        question = await _question(service, verb, request)
        names = service.names(question.judges)
        service.log_prompts(question.items)
        ready = [name for name in names if service.host.states()[name] != "failed"] or names
        rows = await asyncio.gather(*(_rows(service, request, name, question) for name in ready))
        answered = dict(zip(ready, rows, strict=True))
        results = {name: answered.get(name) or _unloaded(service, name, question) for name in names}
        content = json.dumps({"results": results}, allow_nan=False, separators=(",", ":"))
        return Response(content, media_type="application/json")

    return answer


async def _rows(
    service: Service, request: Request, name: str, question: Question
) -> list[dict[str, Any]]:
    verdicts = await service.ask(
        request, name, question.groups(), orders=question.orders, timeout_s=question.timeout_s
    )
    return question.rows(verdicts, name, service.host.family(name))


def _unloaded(service: Service, name: str, question: Question) -> list[dict[str, Any]]:
    """Rows of a judge that could not be loaded, beside the answers of others."""
    failure = Failed(f"{name} could not be loaded; /v1/judges says why")
    return question.rows([failure for group in question.groups() for _ in group], name, "")


async def _question(service: Service, verb: Verb, request: Request) -> Question:
    """Read a request of JSON, or of parts of which ``request`` is JSON."""
    config = service.config
    files: dict[str, bytes] = {}
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        body, files = await _parts(request, config)
    else:
        body = await request.body()
    try:
        if len(body) < _SMALL:
            return read_request(verb, body, files, config)
        return await asyncio.to_thread(read_request, verb, body, files, config)
    except TooManyError as error:
        raise RequestError(413, "too_many", str(error)) from error
    except DataError as error:
        raise RequestError(400, "unreadable", str(error)) from error


async def _parts(request: Request, config: ServeConfig) -> tuple[bytes, dict[str, bytes]]:
    parser = _InMemoryParser(
        request.headers,
        request.stream(),
        max_files=4 * config.max_items,
        max_part_size=config.max_body_bytes,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RequestError(400, "unreadable", f"the parts: {error.message}") from error
    files = {
        name: await part.read() if isinstance(part, UploadFile) else part.encode(errors="replace")
        for name, part in form.multi_items()
    }
    await form.close()
    if "request" not in files:
        raise RequestError(400, "unreadable", "a multipart request has a part 'request' of JSON")
    return files.pop("request"), files
