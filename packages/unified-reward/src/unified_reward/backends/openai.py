"""A model behind a URL: any server that speaks the OpenAI chat protocol (vLLM, SGLang, ...).

It sends images and text, keeps order, retries transient errors, and reads the probabilities of
the choices out of the tokens' log-probabilities. It knows neither tasks nor families.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import ssl
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from unified_reward.backends.choice_logprobs import choice_logprobs_from_tokens
from unified_reward.core.errors import ConfigError, MediaError, ServerError
from unified_reward.core.requests import Answer, Request
from unified_reward.core.verdicts import Failed
from unified_reward.media import data_url


KEY_VARIABLE = "UNIFIED_REWARD_API_KEY"
"""Read where no key is passed. Not OPENAI_API_KEY: that one must never reach another's server."""
TOP_LOGPROBS = 20
"""Alternatives requested per token; the most that the protocol allows."""
_CONNECT_TIMEOUT_S = 10.0
_MAX_DETAIL = 300


@dataclass(frozen=True)
class OpenAIOptions:
    """Concurrency, timeouts and retries."""

    max_concurrency: int = 16
    """Requests in flight at once, >= 1."""
    timeout_s: float = 120.0
    """Longest wait for one whole response, in seconds, > 0."""
    retries: int = 5
    """Further attempts after a lost connection, a timeout or status 408, 429, 5xx; >= 0."""
    backoff_s: float = 0.5
    """Wait before the first retry, in seconds, >= 0; doubles each time."""
    max_wait_s: float = 60.0
    """Longest wait before a retry, in seconds, >= 0, whatever ``Retry-After`` asks for."""

    def __post_init__(self) -> None:
        if self.max_concurrency < 1 or not self.timeout_s > 0:
            raise ConfigError(
                "max_concurrency must be at least 1 and timeout_s above 0, "
                f"not {self.max_concurrency} and {self.timeout_s}"
            )
        if self.retries < 0 or not (self.backoff_s >= 0 and self.max_wait_s >= 0):
            raise ConfigError(
                "retries, backoff_s and max_wait_s must not be negative: "
                f"{self.retries}, {self.backoff_s}, {self.max_wait_s}"
            )


class OpenAIModel:
    """A model on a server. Nothing is contacted before the first ``generate``."""

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        votes: int = 0,
        options: OpenAIOptions | None = None,
    ) -> None:
        """Point at a server.

        Args:
            url: Base of the protocol, such as ``http://localhost:8000/v1``.
            model: The server's name for the model; None for its only one.
            api_key: Sent as a bearer token. None reads ``UNIFIED_REWARD_API_KEY``; "" sends none.
            votes: Further answers sampled where the probabilities of the choices are unknown.
            options: Concurrency, timeouts and retries.

        Raises:
            ConfigError: The URL is not one, carries a login or a query, the key is invalid in a
                header, or ``votes`` is negative.
        """
        if votes < 0:
            raise ConfigError(f"votes must not be negative: {votes}")
        self._url = _checked_url(url)
        self._key = _checked_key(os.environ.get(KEY_VARIABLE, "") if api_key is None else api_key)
        self._votes = votes
        self.options = options or OpenAIOptions()
        self._model = model
        self._asks_logprobs = True
        self.name = self._url if model is None else f"{model} at {self._url}"
        """The model and the URL; the URL alone until the server has named its only model."""

    def generate(self, requests: Sequence[Request]) -> list[Answer | Failed]:
        """Answer every request: same length, same order; one bad item fails alone.

        Greedy, with seed 0. An answer cut off at ``max_new_tokens`` is an answer. Where a vote
        fails, the answer has one vote less.

        Raises:
            ConfigError: No model was named and the server has several.
            ServerError: No model was named and the server cannot say which it has.
        """
        if not requests:
            return []
        # A thread with its own loop: the caller may be inside one already, as in a notebook.
        runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        loop = runner.get_loop()

        def work() -> list[Answer | Failed]:
            with runner:
                return runner.run(self._generate(requests))

        with ThreadPoolExecutor(max_workers=1) as pool:
            future = pool.submit(work)
            try:
                return future.result()
            except KeyboardInterrupt:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_cancel_all, loop)
                raise

    async def _generate(self, requests: Sequence[Request]) -> list[Answer | Failed]:
        slots = asyncio.Semaphore(self.options.max_concurrency)
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        timeout = httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S)
        async with httpx.AsyncClient(headers=headers, timeout=timeout, verify=_tls()) as client:
            if self._model is None:
                self._model = await self._only_model(client)
                self.name = f"{self._model} at {self._url}"

            async def one(index: int, request: Request) -> Answer | Failed:
                async with slots:
                    return await self._answer(client, index, request)

            return list(await asyncio.gather(*(one(i, r) for i, r in enumerate(requests))))

    async def _only_model(self, client: httpx.AsyncClient) -> str:
        response = await self._send(client, "GET", "/models")
        if not response.is_success:
            raise self._fault(*_refusal(response))
        match _json(response):
            case {"data": [{"id": str(model)}]}:
                return model
            case {"data": [_, _, *_] as models}:
                names = ", ".join(str(m.get("id")) for m in models if isinstance(m, Mapping))
                raise ConfigError(
                    f"the server at {self._url} has several models, name one of them: {names}"
                )
        raise self._fault("names no model it serves; pass model=", response.text)

    async def _answer(
        self, client: httpx.AsyncClient, index: int, request: Request
    ) -> Answer | Failed:
        try:
            # Encoding images takes long enough to stall the other requests' loop.
            body = await asyncio.to_thread(self._body, request)
        except (MediaError, OSError, ValueError) as error:
            return Failed(f"an image of the request cannot be encoded: {error}")
        try:
            text, tokens = await self._chat(client, body, index)
        except ServerError as error:
            return Failed(str(error))
        logprobs = choice_logprobs_from_tokens(tokens, request.choices, request.verdict_prefix)
        if logprobs is not None:
            return Answer(text, logprobs)
        return Answer(text, votes=await self._sampled(client, body, index))

    async def _sampled(
        self, client: httpx.AsyncClient, body: Mapping[str, Any], index: int
    ) -> tuple[str, ...]:
        votes: list[str] = []
        for seed in range(1, self._votes + 1):
            sampled = {**_without_logprobs(body), "temperature": 1.0, "seed": seed}
            try:
                votes.append((await self._chat(client, sampled, index))[0])
            except ServerError:
                continue
        return tuple(votes)

    def _body(self, request: Request) -> dict[str, Any]:
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": data_url(part)}}
            for part in request.parts
        ]
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": request.max_new_tokens,
            "temperature": 0.0,
            "seed": 0,
        }
        if request.choices and self._asks_logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return body

    async def _chat(
        self, client: httpx.AsyncClient, body: Mapping[str, Any], index: int
    ) -> tuple[str, Sequence[Any]]:
        """Text and token entries of one completion."""
        response = await self._send(client, "POST", "/chat/completions", body=body, index=index)
        if response.status_code in (400, 422) and "logprobs" in body:
            # Few servers say which field they refuse; so it is sent again without them.
            plain = _without_logprobs(body)
            again = await self._send(client, "POST", "/chat/completions", body=plain, index=index)
            if again.is_success:
                self._asks_logprobs = False
                response = again
        if not response.is_success:
            raise self._fault(*_refusal(response))
        match _json(response):
            case {"choices": [{"message": {"content": str(text)}} as choice, *_]}:
                match choice.get("logprobs"):
                    case {"content": [*tokens]}:
                        return text, tokens
                return text, ()
            case {"choices": [{"message": {"content": None}}, *_]}:
                raise self._fault("answered without a text (its content is null)", response.text)
        raise self._fault("answered something other than a chat completion", response.text)

    async def _send(
        self,
        client: httpx.AsyncClient,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        index: int = 0,
    ) -> httpx.Response:
        """The response to one request, after retries; a refusal is a response too."""
        content = None if body is None else json.dumps(body)
        tries = self.options.retries + 1
        trouble = detail = ""
        for attempt in range(tries):
            retry_after = ""
            try:
                async with asyncio.timeout(self.options.timeout_s):
                    response = await client.request(method, self._url + path, content=content)
            except TimeoutError:
                trouble, detail = f"did not answer within {self.options.timeout_s:g} s", ""
            except httpx.TransportError as error:
                trouble, detail = (
                    f"lost or refused the connection ({type(error).__name__})",
                    str(error),
                )
            except httpx.RequestError as error:
                raise self._fault("answered unreadable bytes", str(error)) from error
            else:
                if response.status_code not in (408, 429) and response.status_code < 500:
                    return response
                trouble, detail = _refusal(response)
                retry_after = response.headers.get("Retry-After", "")
            if attempt < tries - 1:
                await asyncio.sleep(
                    wait_s(self.options, attempt, index=index, retry_after=retry_after)
                )
        raise self._fault(f"{trouble}, tried {tries} time{'s' * (tries > 1)}", detail)

    def _fault(self, trouble: str, detail: str = "") -> ServerError:
        """An error for people, without the key even where the server repeats it."""
        if self._key:
            detail = detail.replace(self._key, "***")
        detail = " ".join(detail.split())
        if len(detail) > _MAX_DETAIL:
            detail = detail[:_MAX_DETAIL] + "..."
        return ServerError(
            f"the server at {self._url} {trouble}" + (f": {detail}" if detail else "")
        )


def wait_s(options: OpenAIOptions, attempt: int, *, index: int = 0, retry_after: str = "") -> float:
    """Seconds to wait before the next attempt.

    Doubles with each attempt and is spread over [1/2, 1] of that by the request's index, so that
    requests refused together do not come back together. ``Retry-After`` (seconds or a date) is
    honoured where it asks for longer. Never above ``options.max_wait_s``.

    >>> wait_s(OpenAIOptions(backoff_s=0.5), 2, index=0)
    1.0
    >>> wait_s(OpenAIOptions(max_wait_s=60), 0, retry_after="3600")
    60
    """
    spread = index * 0.618034 % 1
    backoff = options.backoff_s * 2.0 ** min(attempt, 30) * (1 + spread) / 2
    return min(options.max_wait_s, max(backoff, _retry_after_s(retry_after)))


def _retry_after_s(header: str) -> float:
    try:
        if header.replace(".", "", 1).isdecimal():
            return float(header)
        return parsedate_to_datetime(header).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0


def _checked_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{url!r} is not a URL: {error}") from error
    if parsed.userinfo:
        # The message omits the URL: its login is a secret.
        raise ConfigError("a server's URL must not carry a login; pass the key as api_key")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query:
        raise ConfigError(
            f"{url!r} is not the base URL of a server, such as http://localhost:8000/v1 (no query)"
        )
    return url.rstrip("/")


def _checked_key(key: str) -> str:
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError("the API key has characters that are invalid in an HTTP header")
    return key


@functools.cache
def _tls() -> ssl.SSLContext:
    """Made once: reading the certificates takes longer than a small request."""
    return httpx.create_ssl_context()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()


def _without_logprobs(body: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if "logprobs" not in key}


def _json(response: httpx.Response) -> object:
    try:
        return response.json()
    except ValueError:
        return None


def _refusal(response: httpx.Response) -> tuple[str, str]:
    """Status and message of a refusal."""
    detail = response.text
    match _json(response):
        case {"error": {"message": str(message)}} | {"message": str(message)}:
            detail = message
    return f"answered {response.status_code} {response.reason_phrase}".rstrip(), detail
