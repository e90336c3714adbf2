"""Middleware in front of every route: tokens, sizes, hosts, figures and the log."""

from __future__ import annotations

import logging
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
    content = {"error": {"type": error.kind, "message": str(error)}}
    return JSONResponse(content, error.status, headers)


class Guard:
    """Refuses requests before their bodies are read; counts and logs all of them.

    A server on a loopback address answers to the names of that address alone, so that no web page
    reaches it by a name of its own.
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
        start, status = time.monotonic(), 499

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = Headers(scope=scope)
        n_bytes = 0
        try:
            n_bytes = self._check(scope, headers)
            self._pending_bytes += n_bytes
            await self._app(scope, receive, send_noting)
        except RequestError as error:
            await error_response(error)(scope, receive, send_noting)
        finally:
            self._pending_bytes -= n_bytes
            self._note(scope, status, time.monotonic() - start)

    def _check(self, scope: Scope, headers: Headers) -> int:
        """Size of the body of an acceptable request."""
        config = self._service.config
        name = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
        if config.is_loopback and name not in _LOOPBACK:
            raise RequestError(421, "wrong_host", f"this server is not {name!r}")
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
        if not declared.isdecimal():
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

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        path = getattr(route, "path", "other")
        metrics = self._service.metrics
        metrics.requests.labels(path, str(status)).inc()
        metrics.request_seconds.labels(path).observe(seconds)
        _log.info("%s %s %d %.0f ms", scope["method"], path, status, 1000 * seconds)
