"""A connection to one server: sends JSON, retries what may pass, and reads JSON.

Knows no field of a request.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from unified_reward.backends.http_settings import Route
from unified_reward.backends.openai_options import OpenAIOptions, wait_s
from unified_reward.backends.openai_response import Fault, read_response


MAX_BYTES = 64 * 1024 * 1024
"""Longest response that is read, decompressed."""
_log = logging.getLogger(__name__)
_NO_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


@dataclass(frozen=True)
class Connection:
    """A client of one server."""

    client: httpx.AsyncClient
    base: httpx.URL
    route: Route
    options: OpenAIOptions
    logged: set[tuple[int, str]] = field(default_factory=set[tuple[int, str]])
    """Numbers and troubles of tries that a line was logged of; other requests have them too."""

    async def send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, index: int = 0
    ) -> Mapping[str, Any] | Fault:
        """The JSON object of the response, or what came instead, after retries.

        Args:
            method: Of HTTP.
            path: Below the base.
            body: Sent as JSON.
            index: Spreads the waits of requests that are refused together.
        """
        content = None if body is None else json.dumps(body, allow_nan=False)
        start, *query = self.base.raw_path.partition(b"?")
        url = self.base.copy_with(raw_path=b"".join((start.rstrip(b"/"), path.encode(), *query)))
        reply: Mapping[str, Any] | Fault = Fault("was not contacted")
        tries = self.options.retries + 1
        for attempt in range(tries):
            reply = await self._once(method, url, content)
            if not isinstance(reply, Fault) or not reply.is_passing:
                return reply
            if attempt < tries - 1:
                wait = wait_s(self.options, attempt, index=index, retry_after=reply.retry_after)
                self._log(url, reply, attempt, wait)
                await asyncio.sleep(wait)
        return replace(reply, trouble=f"{reply.trouble}, tried {tries} time{'s' * (tries > 1)}")

    def _log(self, url: httpx.URL, fault: Fault, attempt: int, wait: float) -> None:
        """Log a try that failed, as `unified_reward_client` does; without what the server said."""
        if (attempt, fault.trouble) in self.logged:
            return
        self.logged.add((attempt, fault.trouble))
        level = logging.INFO if fault.status == 429 else logging.WARNING  # 429: it is busy
        where = url.copy_with(query=None)
        _log.log(level, "%s: %s; next try in %.2g s", where, fault.trouble, wait)

    async def _once(
        self, method: str, url: httpx.URL, content: str | None
    ) -> Mapping[str, Any] | Fault:
        data = bytearray()
        try:
            async with (
                asyncio.timeout(self.options.timeout_s),
                self.client.stream(method, url, content=content) as response,
            ):
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > MAX_BYTES:
                        return Fault(f"answered with more than {MAX_BYTES} bytes")
        except TimeoutError:
            return Fault(f"did not answer within {self.options.timeout_s:g} s", is_lost=True)
        except (httpx.TransportError, OSError) as error:  # a broken TLS record is an OSError
            return self._lost(error)
        except httpx.RequestError as error:
            return Fault("answered unreadable bytes", str(error))
        source = self.route.proxy_name if response.status_code == 407 else ""
        reply = read_response(response.status_code, bytes(data), response.headers)
        return replace(reply, source=source) if isinstance(reply, Fault) else reply

    def _lost(self, error: Exception) -> Fault:
        causes = list(_causes(error))
        detail, kind, proxy = str(error), type(error).__name__, self.route.proxy_name
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
            hint = "; SSL_CERT_FILE names the file of another authority's certificates"
            return Fault("has a certificate that is not trusted", detail + hint)
        is_proxys = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError)
        source = proxy if is_proxys else ""
        through = f" through {proxy}" if proxy and not is_proxys else ""
        if any(isinstance(c, socket.gaierror) and c.errno in _NO_HOST for c in causes):
            return Fault("cannot be found: there is no such host", detail, source=source)
        # A proxy answers with a status: 407 for a login that it wants.
        is_final = isinstance(error, httpx.ProxyError) and detail.startswith("4")
        trouble = f"lost or refused the connection ({kind}){through}"
        return Fault(trouble, detail, is_lost=not is_final, source=source)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
