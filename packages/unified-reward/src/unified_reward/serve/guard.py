"""Middleware in front of every route: tokens, sizes, hosts, figures and the log."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unified_reward.serve import page
from unified_reward.serve.service import RETRY_AFTER_S, RequestError, Service


OPEN_PATHS = frozenset({"/health", *page.FILES})
"""Paths that need no token to be read."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_log = logging.getLogger(__name__)


def error_response(error: RequestError) -> Response:
    """The refusal of a request as JSON."""
    headers: Mapping[str, str] = {}
    if error.retry_after_s:
        headers = {"Retry-After": str(error.retry_after_s)}
    elif error.status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    elif error.status == 408:
        headers = {"Connection": "close"}
    content = {"error": {"type": error.kind, "message": str(error)}}
    return JSONResponse(content, error.status, headers)


class Guard:
    """Refuses requests before their bodies are read; counts and logs all of them.

    A server on a loopback address answers to the names of that address alone, so that no web page
    reaches it by a name of its own. Without a token it refuses requests of other web pages.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._pending_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        status: int | None = None

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = Headers(scope=scope)
        n_bytes = 0
        receive = _in_time(receive, self._service.config.body_timeout_s)
        try:
            n_bytes = self._check(scope, headers)
            self._pending_bytes += n_bytes
            await self._app(scope, receive, send_noting)
        except RequestError as error:
            response = error_response(error)
            # Such a client may leave out the body of a refused request.
            if "expect" in headers:
                response.headers["Connection"] = "close"
            await response(scope, receive, send_noting)
        except asyncio.CancelledError:
            # The server ends, and does not wait for this answer any longer.
            if status is not None:
                raise
            closing = RequestError(503, "closing", "the server is shutting down", RETRY_AFTER_S)
            await error_response(closing)(scope, receive, send_noting)
        finally:
            self._pending_bytes -= n_bytes
            self._note(scope, status or 500, time.monotonic() - start)

    def _check(self, scope: Scope, headers: Headers) -> int:
        """Size of the body of an acceptable request."""
        config = self._service.config
        self._check_page(headers)
        is_read = scope["method"] in ("GET", "HEAD", "OPTIONS")
        if not (is_read and scope["path"] in OPEN_PATHS) and not self._service.is_authorised(
            headers.get("authorization")
        ):
            raise RequestError(
                401,
                "unauthorised",
                "the token is missing or wrong; give the header Authorization: Bearer TOKEN",
            )
        if is_read:
            return 0
        declared = headers.get("content-length", "")
        if "transfer-encoding" in headers or not declared.isdecimal():
            raise RequestError(411, "length_required", "give the header Content-Length")
        n_bytes = int(declared)
        if n_bytes > config.max_body_bytes:
            raise RequestError(
                413, "too_large", f"{n_bytes} bytes; at most {config.max_body_bytes} are read"
            )
        if self._pending_bytes + n_bytes > config.max_pending_bytes:
            raise RequestError(
                429, "busy", "too many bytes of requests are being answered", RETRY_AFTER_S
            )
        return n_bytes

    def _check_page(self, headers: Headers) -> None:
        """Refuse what a web page makes a browser send to a server on a loopback address."""
        config = self._service.config
        host = headers.get("host", "")
        name = re.sub(r":\d*$", "", host).lower()
        if config.is_loopback and name not in (*_LOOPBACK, config.host):
            raise RequestError(421, "wrong_host", f"this server is not {name!r}")
        origin = headers.get("origin")
        if config.token is None and origin and origin.partition("://")[2] != host:
            raise RequestError(403, "cross_origin", f"no requests from pages of {origin!r}")

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        path = getattr(route, "path", "other")
        metrics = self._service.metrics
        metrics.requests.labels(path, str(status)).inc()
        metrics.request_seconds.labels(path).observe(seconds)
        _log.info("%s %s %d %.0f ms", scope["method"], path, status, 1000 * seconds)


def _in_time(receive: Receive, limit_s: float) -> Receive:
    """Wait for each part of a body for a limited time, and then for a disconnect for any time."""
    is_body = True

    async def receive_part() -> Message:
        nonlocal is_body
        try:
            async with asyncio.timeout(limit_s if is_body else None):
                message = await receive()
        except TimeoutError as error:
            raise RequestError(
                408, "slow_body", f"nothing of the body arrived in {limit_s:g} s"
            ) from error
        is_body = is_body and message.get("more_body", False)
        return message

    return receive_part
