"""Routes of an arena: pages, questions, votes, media and standings."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from importlib import resources
from typing import Annotated, cast

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unified_reward.arena import page
from unified_reward.arena.service import Arena, RequestError, Side
from unified_reward.arena.tokens import Tokens
from unified_reward.core.errors import MediaError, UnifiedRewardError
from unified_reward.serve import page as server_page


MAX_BODY = 16 * 1024
"""Bytes of a body that are read at most."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; media-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_log = logging.getLogger(__name__)

_Star = Annotated[int, Field(ge=1, le=5)]


class VoteBody(BaseModel):
    """A vote, sides as the page shows them."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    id: str
    choice: Side
    aspects: dict[str, Annotated[list[_Star], Field(min_length=2, max_length=2)]] = {}
    seconds: float = Field(ge=0)


def create_app(arena: Arena, tokens: Tokens, *, is_loopback: bool) -> FastAPI:
    """Build the application.

    Args:
        arena: Items and votes.
        tokens: Tokens of raters and owner.
        is_loopback: Answer to the names of this machine alone, so that no web page reaches the
            server by a name of its own.
    """
    app = FastAPI(title="Arena", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.arena, app.state.tokens = arena, tokens
    app.add_middleware(_Guard, is_loopback=is_loopback)
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(UnifiedRewardError, _failed)
    app.add_exception_handler(Exception, _failed)
    app.include_router(_router)
    shared = {path: server_page.FILES[path] for path in ("/base.css", "/dom.js")}
    for package, files in ((server_page, shared), (page, page.FILES)):
        for path, (name, media_type) in files.items():
            content = resources.files(package).joinpath(name).read_bytes()
            app.add_api_route(path, _sender(content, media_type))
    return app


def _token(request: Request) -> str:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _rater(request: Request) -> str:
    """Name of the rater whose token the request has."""
    tokens: Tokens = request.app.state.tokens
    rater = tokens.rater(_token(request))
    if rater is None:
        raise RequestError(401, "unauthorised", "the link is not valid; ask for a new one")
    return rater


def _owner(request: Request) -> None:
    tokens: Tokens = request.app.state.tokens
    if not tokens.is_owner(_token(request)):
        _rater(request)
        raise RequestError(403, "not_owner", "only the owner of the arena sees the standings")


def _arena(request: Request) -> Arena:
    return request.app.state.arena


_Rater = Annotated[str, Depends(_rater)]
_Arena = Annotated[Arena, Depends(_arena)]
_router = APIRouter()


@_router.get("/api/item")
def _item(rater: _Rater, arena: _Arena) -> JSONResponse:
    return JSONResponse(arena.state(rater))


@_router.post("/api/vote")
def _vote(rater: _Rater, arena: _Arena, body: VoteBody) -> JSONResponse:
    stars = {name: (left, right) for name, (left, right) in body.aspects.items()}
    return JSONResponse(arena.vote(rater, body.id, body.choice, stars, body.seconds))


@_router.post("/api/undo")
def _undo(rater: _Rater, arena: _Arena) -> JSONResponse:
    return JSONResponse(arena.undo(rater))


@_router.get("/api/standings", dependencies=[Depends(_owner)])
def _standings(arena: _Arena) -> JSONResponse:
    return JSONResponse(arena.standings())


@_router.api_route("/media/{name}", methods=["GET", "HEAD"])
def _media(name: str, arena: _Arena) -> Response:
    try:
        file = arena.media.file(name)
    except MediaError as error:
        _log.warning("a medium is broken: %s", error)
        raise RequestError(404, "broken", "this file is broken") from error
    if file is None:
        raise RequestError(404, "no_route", "there is nothing of this name")
    headers = {"Cache-Control": "private, max-age=86400, immutable"}
    return FileResponse(file.path, media_type=file.media_type, headers=headers)


def _sender(content: bytes, media_type: str) -> Callable[[], Response]:
    def send() -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return send


def _error(status: int, kind: str, message: str) -> Response:
    return JSONResponse({"error": {"type": kind, "message": message}}, status)


async def _refused(_: Request, error: Exception) -> Response:
    refused = cast("RequestError", error)
    response = _error(refused.status, refused.kind, str(refused))
    if refused.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


async def _invalid(_: Request, error: Exception) -> Response:
    """Refuse a body, without repeating what it held."""
    reasons = [str(each["msg"]) for each in cast("RequestValidationError", error).errors()]
    return _error(422, "invalid", "; ".join(dict.fromkeys(reasons[:3])))


async def _no_route(request: Request, error: Exception) -> Response:
    refused = cast("HTTPException", error)
    response = _error(refused.status_code, "no_route", str(refused.detail))
    response.headers.update(refused.headers or {})
    return response


async def _failed(request: Request, error: Exception) -> Response:
    """Tell that nothing was done; the log says why, since a reason may name files and models."""
    _log.error("%r failed", request.url.path, exc_info=error)
    return _error(503, "not_written", "the server failed and kept nothing of this; try again")


class _Guard:
    """Refuses hosts, pages and bodies that are not ours; adds headers to every response."""

    def __init__(self, app: ASGIApp, *, is_loopback: bool) -> None:
        self._app = app
        self._is_loopback = is_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope["method"], Headers(scope=scope))
        app = _error(*refusal) if refusal else self._app
        await app(scope, receive, send_with_headers)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str, str] | None:
        host = headers.get("host", "")
        name = re.sub(r":\d*$", "", host).strip("[]").lower()
        if self._is_loopback and name not in LOOPBACK:
            return 421, "wrong_host", "this server answers to the names of its machine alone"
        if method in ("GET", "HEAD"):
            return None
        origin = headers.get("origin")
        if origin and origin.partition("://")[2] != host:
            return 403, "cross_origin", "no requests from other pages"
        length = headers.get("content-length", "")
        if "transfer-encoding" in headers or not length.isdecimal():
            return 411, "length_required", "give the header Content-Length"
        if int(length) > MAX_BODY:
            return 413, "too_large", f"at most {MAX_BODY} bytes are read"
        return None
