"""A model behind a URL: any server that speaks the OpenAI chat protocol (vLLM, SGLang, ...).

It sends images and text, keeps order, retries transient errors, and reads the probabilities of
the choices out of the tokens' log-probabilities. It knows neither tasks nor families.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx

from unified_reward.backends.choice_logprobs import choice_logprobs_from_tokens
from unified_reward.backends.http_settings import route_to
from unified_reward.backends.openai_connection import Connection
from unified_reward.backends.openai_options import (
    KEY_VARIABLE,
    OpenAIOptions,
    check_header_value,
    checked_url,
)
from unified_reward.backends.openai_request import Dialect, remedy, write_messages
from unified_reward.backends.openai_response import Completion, Fault, read_completion
from unified_reward.core.errors import ConfigError, MediaError, ServerError, one_line
from unified_reward.core.requests import Answer, Place, Request
from unified_reward.core.verdicts import Failed, Unparsed


_CONNECT_TIMEOUT_S = 10.0
_MAX_DETAIL = 300
_MIN_SECRET = 6
"""Letters of the shortest value of a header that is taken for a secret."""
_BASE64 = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/\\_=-]*|[A-Za-z0-9+/\\_=-]{120,}")


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
            options: Concurrency, timeouts, retries, and what is sent.

        Raises:
            ConfigError: The URL is not one, carries a login or a query, the key is invalid in a
                header, ``votes`` is negative, or the environment's proxy or certificates cannot be
                used.
        """
        if votes < 0:
            raise ConfigError(f"votes must not be negative: {votes}")
        if model is not None and not model.isprintable():
            raise ConfigError(f"{model!r} is not a name of a model")
        self._base = checked_url(url)
        self._url = str(self._base.copy_with(query=None)).rstrip("/")
        variable, given = "the API key", api_key
        if given is None:
            variable, given = KEY_VARIABLE, os.environ.get(KEY_VARIABLE, "")
        key = given.strip()
        check_header_value(key, variable)
        route_to(self._base)
        self._key = key
        self._votes = votes
        self.options = options or OpenAIOptions()
        self._model = model
        self._dialect = Dialect()
        self._accepted: set[frozenset[str]] = set()
        """Fields of the requests that were answered."""
        self.name = self._url if model is None else f"{model} at {self._url}"
        """The model and the URL; the URL alone until the server has named its only model."""

    def generate(self, requests: Sequence[Request]) -> list[Answer | Failed | Unparsed]:
        """Answer every request: same length, same order; one bad item fails alone.

        Greedy, with seed 0, unless the server refuses these fields, which the notes say. An answer
        cut off at ``max_new_tokens`` is an answer. Where a vote fails, the answer has one vote
        less.

        Raises:
            ConfigError: No model was named and the server has several, or the environment's proxy
                or certificates cannot be used.
            ServerError: No model was named and the server cannot say which it has.
        """
        if not requests:
            return []
        # A thread with its own loop: the caller may be inside one already, as in a notebook.
        runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        loop = runner.get_loop()

        def work() -> list[Answer | Failed | Unparsed]:
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

    async def _generate(self, requests: Sequence[Request]) -> list[Answer | Failed | Unparsed]:
        slots = asyncio.Semaphore(self.options.max_concurrency)
        route = route_to(self._base)
        async with httpx.AsyncClient(
            headers=self._headers(),
            timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S),
            verify=route.tls,
            proxy=route.proxy,
            trust_env=False,
        ) as client:
            connection = Connection(client, self._base, route, self.options)
            if self._model is None:
                self._model = await self._only_model(connection)
                self.name = f"{self._model} at {self._url}"

            async def one(index: int, request: Request) -> Answer | Failed | Unparsed:
                async with slots:
                    return await self._answer(connection, index, request)

            return list(await asyncio.gather(*(one(i, r) for i, r in enumerate(requests))))

    def _headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        extra = self.options.extra_headers
        own = {"Content-Type": "application/json", **key}
        replaced = {name.lower() for name in extra}
        return {n: value for n, value in own.items() if n.lower() not in replaced} | {**extra}

    async def _only_model(self, connection: Connection) -> str:
        reply = await connection.send("GET", "/models")
        match reply:
            case Fault():
                hint = "; pass model= (--model)" if reply.status in (404, 405, 501) else ""
                raise self._error(reply, hint)
            case {"data": [{"id": str(model)}]} if model.isprintable():
                return model
            case {"data": [_, _, *_] as models}:
                names = ", ".join(repr(m.get("id")) for m in models if isinstance(m, Mapping))
                raise ConfigError(
                    f"the server at {self._url} has several models, name one of them: {names}"
                )
            case _:
                trouble = "names no model it serves; pass model= (--model)"
                raise self._error(Fault(trouble, json.dumps(reply)))

    async def _answer(
        self, connection: Connection, index: int, request: Request
    ) -> Answer | Failed | Unparsed:
        try:
            # Encoding images takes long enough to stall the other requests' loop.
            messages, notes = await asyncio.to_thread(write_messages, request, self.options)
        except (MediaError, OSError, ValueError) as error:
            return Failed(f"an image of the request cannot be encoded: {error}")
        chat = _Chat(connection, messages, request, index)
        reply, dialect = await self._ask(chat)
        if isinstance(reply, Fault):
            return Failed.from_error(self._error(reply, remedy(reply, request)))
        if isinstance(reply, Unparsed):
            return reply
        notes += dialect.notes(request)
        logprobs = choice_logprobs_from_tokens(
            reply.tokens, request.choices, request.verdict_prefix
        )
        at_places = tuple(_at_place(reply, place) for place in request.places)
        votes = () if logprobs or any(at_places) else await self._sampled(chat)
        return Answer(reply.text, logprobs, votes, notes, at_places)

    async def _sampled(self, chat: _Chat) -> tuple[str, ...]:
        votes = [(await self._ask(chat, vote=vote))[0] for vote in range(1, self._votes + 1)]
        return tuple(vote.text for vote in votes if isinstance(vote, Completion))

    async def _ask(
        self, chat: _Chat, *, vote: int = 0
    ) -> tuple[Completion | Unparsed | Fault, Dialect]:
        """The answer to a request, in the first dialect in which the server takes it."""
        dialect = self._dialect
        reply, fields = await self._complete(chat, dialect, vote)
        while isinstance(reply, Fault) and reply.may_name_a_field:
            changed = dialect.after(reply, self._own(fields))
            if changed is None:
                break
            dialect = changed
            reply, fields = await self._complete(chat, dialect, vote)
        if isinstance(reply, Fault) and reply.is_refusal and fields not in self._accepted:
            # Few servers say which field they refuse, and until one answers it may be any.
            for trial in dialect.trials(self._own(fields)):
                again, tried = await self._complete(chat, trial, vote)
                if not isinstance(again, Fault):
                    reply, fields, dialect = again, tried, trial
                    break
        if not isinstance(reply, Fault):
            self._accepted.add(fields)
            self._dialect = self._dialect.both(dialect)
        return reply, dialect

    def _own(self, fields: Collection[str]) -> set[str]:
        return set(fields) - self.options.extra_body.keys()

    async def _complete(
        self, chat: _Chat, dialect: Dialect, vote: int
    ) -> tuple[Completion | Unparsed | Fault, frozenset[str]]:
        fields = dialect.fields(chat.request, self.options.extra_body, vote=vote)
        body = {"model": self._model, "messages": chat.messages, **fields}
        reply = await chat.connection.send("POST", "/chat/completions", body, index=chat.index)
        completion = reply if isinstance(reply, Fault) else read_completion(reply)
        return completion, frozenset(fields)

    def _error(self, fault: Fault, hint: str = "") -> ServerError:
        """An error for people, without secrets and images even where the server repeats them."""
        detail = fault.detail
        for secret in self._secrets():
            detail = detail.replace(secret, "***")
        detail = one_line(_BASE64.sub("(data)", detail), _MAX_DETAIL - len(hint))
        source = fault.source or f"the server at {self._url}"
        return ServerError(f"{source} {fault.trouble}{f': {detail}' if detail else ''}{hint}")

    def _secrets(self) -> list[str]:
        """The key and the values of headers, as they are and as JSON writes them, longest first."""
        values = [self._key]
        for value in self.options.extra_headers.values():
            values += [text for text in (value, *value.split()) if len(text) >= _MIN_SECRET]
        texts = {text for value in values if value for text in (value, json.dumps(value)[1:-1])}
        return sorted(texts, key=len, reverse=True)


def _at_place(reply: Completion, place: Place) -> tuple[float, ...] | None:
    """Log-probabilities of the choices of a place; None if the answer lacks it."""
    matches = [*re.finditer(place.pattern, reply.text)]
    if not matches:
        return None
    head = reply.text[: matches[-1].end()]
    return choice_logprobs_from_tokens(reply.tokens, place.choices, head)


class _Chat(NamedTuple):
    """A request that is being asked."""

    connection: Connection
    messages: list[dict[str, Any]]
    request: Request
    index: int


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
