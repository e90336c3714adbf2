"""A small OpenAI-compatible server whose behaviour per request is a function of the test."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Call:
    """One request as it arrived."""

    body: Mapping[str, Any]
    headers: Mapping[str, str]
    attempt: int
    """Number of times that a request with this text has arrived, from 1."""
    path: str = ""
    """The request's target: a path, or a whole URL where the server is used as a proxy."""

    @property
    def text(self) -> str:
        content = self.body["messages"][0]["content"]
        return "".join(part["text"] for part in content if part["type"] == "text")


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    send_frac: float = 1.0
    """Share of the body sent before the connection is closed."""
    hangs_up: bool = False
    """The connection is closed after the body, without a word about it."""


def chat(
    text: Any,
    *,
    tokens: Any = None,
    finish: str = "stop",
    message: Mapping[str, Any] | None = None,
    **reply: Any,
) -> Reply:
    """A completion with a text and, where given, its token entries and further fields."""
    choice = {
        "message": {"role": "assistant", "content": text, **(message or {})},
        "finish_reason": finish,
        "logprobs": None if tokens is None else {"content": tokens},
    }
    return answer({"choices": [choice]}, **reply)


def answer(body: Any, status: int = 200, **reply: Any) -> Reply:
    """Any value as JSON."""
    return Reply(status, json.dumps(body).encode(), **reply)


def token(text: str, *top: tuple[str, float]) -> dict[str, Any]:
    """The entry of a generated token, whose own log-probability stands in the list."""
    return {
        "token": text,
        "logprob": dict(top)[text],
        "top_logprobs": [{"token": other, "logprob": logprob} for other, logprob in top],
    }


class FakeServer:
    """Answers ``respond(call)`` to each chat request, in threads, on a free port."""

    def __init__(
        self,
        respond: Callable[[Call], Reply],
        *,
        models: tuple[str, ...] = ("judge",),
        protocol: str = "HTTP/1.1",
    ) -> None:
        self._respond = respond
        self.models = Reply(body=json.dumps({"data": [{"id": item} for item in models]}).encode())
        self.calls: list[Call] = []
        self.most_at_once = 0
        self._at_once = 0
        self._dead = threading.Event()
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = protocol

            def do_GET(self) -> None:
                fake._send(self, fake.models)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fake._handle(self, json.loads(body))

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Clients hang up on purpose here."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._dead.set()
        self._server.shutdown()
        self._server.server_close()

    def die(self) -> None:
        """From now on every connection is closed without an answer."""
        self._dead.set()

    def _handle(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            call = Call(body, dict(handler.headers), 1, handler.path)
            with self._lock:
                self._seen[call.text] += 1
                call = replace(call, attempt=self._seen[call.text])
                self.calls.append(call)
            reply = self._respond(call)
            time.sleep(reply.delay_s)
        finally:
            with self._lock:
                self._at_once -= 1
        self._send(handler, reply)

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if self._dead.is_set():
            handler.close_connection = True
            return
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(reply.body)))
        handler.end_headers()
        handler.wfile.write(reply.body[: int(len(reply.body) * reply.send_frac)])
        if reply.send_frac < 1 or reply.hangs_up:
            handler.close_connection = True
