"""Mutated responses of a server, through the judge behind a URL; json is the reference."""

from __future__ import annotations

import json
import math
import re
import socket
import threading
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.fuzz.answers import check_verdict
from benchmarks.fuzz.kind import WrongReadError
from benchmarks.fuzz.mutate import json_text, mutate_bytes, mutate_text, mutate_value
from unified_reward.backends.openai import OpenAIModel, OpenAIOptions
from unified_reward.core.errors import ConfigError, ServerError
from unified_reward.core.requests import Answer, Request
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.core.verdicts import Failed, Unparsed
from unified_reward.judges.card import Card
from unified_reward.judges.generative import GenerativeJudge


SHARE = 6
_STATUSES = (200, 200, 200, 200, 200, 201, 204, 301, 307, 400, 404, 413, 422, 429, 500, 503, 599)
_TYPES = ("application/json",) * 12 + ("text/html", "text/event-stream", "")
_TYPES += ("application/json; charset=utf-16", "application/json; charset=none")
_ODD_BODIES = (
    *(
        b"",
        b"<html><body>502 Bad Gateway</body></html>",
        b"null",
        b"[]",
        b'"ok"',
        b"{}",
        b"data: {}\n\n",
    ),
    *(b'{"error": "no"}', b'{"error": {"message": "slow down", "code": 429}}', b"[" * 100_000),
    *(b'{"error": {"message": null, "code": "x"}}', b'{"choices": []}', b'{"choices": [null]}'),
    *(b'{"object": "error", "message": 5}', b'{"detail": [{"msg": "bad"}]}', b"\xff\xfe{\x00}\x00"),
)
_ODD_LOGPROBS = (None, 0, 1.5, -1e308, "-0.1", True, float("-inf"), float("nan"), -9999.0, [], {})


class _Server:
    """Answers every request with the bytes of the moment, by plain sockets."""

    def __init__(self) -> None:
        self.response = b""
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            with suppress(OSError):
                connection, _ = self._socket.accept()
                with connection:
                    connection.settimeout(5)
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        data = b""
        while not _is_whole(data):
            received = connection.recv(1 << 16)
            if not received:
                return
            data += received
        connection.sendall(self.response)


def _is_whole(data: bytes) -> bool:
    """True for a request with all of its body."""
    head, end, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


def _chat(text: Any, tokens: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    logprobs = None if tokens is None else {"content": tokens}
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "stop"}
    return {"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": {}}


def _tokens(text: str, choices: tuple[str, ...], rng: Random) -> list[dict[str, Any]]:
    """Entries of an answer whose last token alone decides, as most servers send them."""
    last = max(choices, key=len)[-1:] if text not in choices else text
    tokens = [text[: len(text) - len(last)], last] if len(text) > len(last) else [text]
    entries: list[dict[str, Any]] = []
    for token in tokens:
        others = [
            {"token": choice[-1:] or "x", "logprob": -rng.expovariate(0.5)} for choice in choices
        ]
        top = [{"token": token, "logprob": -0.2}, *others[:19]]
        entries.append({"token": token, "logprob": -0.2, "top_logprobs": top})
    return entries


class Server:
    """Responses of servers that speak the chat protocol, more or less."""

    def __init__(self, folder: Path) -> None:
        del folder
        self.server = _Server()
        self.image = Image(np.zeros((4, 4, 3), np.uint8), "HWC")

    def check(self, rng: Random) -> bool:
        """Ask a judge, or a model, behind one response."""
        if rng.random() < 0.15:
            return self._check_weights(rng)
        text = rng.choice(
            ("Final Score: 4", "Image 1 is better.", "It is a tie.", "é\u2028", "", "3")
        )
        choices = rng.choice((("1", "2", "3"), ("Image 1 is better.", "It is a tie."), ()))
        tokens = _tokens(text, choices, rng) if text and choices and rng.random() < 0.7 else None
        value: Any = _chat(text, tokens)
        is_sound = rng.random() < 0.1
        body = json.dumps(value).encode()
        if not is_sound:
            body = self._mutated(value, rng)
        self.server.response = self._response(body, rng, is_sound=is_sound)
        model = OpenAIModel(
            self.server.url,
            model="m" if rng.random() < 0.9 else None,
            api_key="secret",
            votes=rng.choice((0, 0, 0, 1)),
            options=OpenAIOptions(retries=0, timeout_s=5.0),
        )
        if rng.random() < 0.5:
            return self._check_judge(model, rng)
        request = Request(("Rate it.",), choices)
        try:
            (answer,) = model.generate([request])
        except (ServerError, ConfigError):
            return False  # the server cannot say which model it has
        self._check_answer(answer, body, text if is_sound else None)
        return isinstance(answer, Answer)

    def _check_weights(self, rng: Random) -> bool:
        """Choices of one token each, all of them listed: their probabilities are as listed."""
        shares = [rng.expovariate(1) ** 3 for _ in range(3)]
        usual = [math.log(share / sum(shares)) for share in shares]
        odd = [rng.choice((None, float("-inf"), -9999.0, one)) for one in usual]
        given = rng.choice((usual, odd))
        best = max(range(3), key=lambda i: -math.inf if given[i] is None else given[i])
        top = [{"token": str(i), "logprob": one} for i, one in enumerate(given)]
        rng.shuffle(top)
        token = {"token": str(best), "logprob": given[best], "top_logprobs": top}
        body = json.dumps(_chat(str(best), [token])).encode()
        self.server.response = self._response(body, rng, is_sound=True)
        options = OpenAIOptions(retries=0, timeout_s=5.0)
        model = OpenAIModel(self.server.url, model="m", options=options)
        (answer,) = model.generate([Request(("Rate it.",), ("0", "1", "2"))])
        if isinstance(answer, Failed) or answer.choice_logprobs is None:
            if given is usual:
                raise WrongReadError("sound log-probabilities are not read")
            return False
        if given[best] in (None, -math.inf):
            raise WrongReadError(f"impossible, all of {given}: {answer.choice_logprobs}")
        likely = [-math.inf if one is None else one for one in given]
        got, weights = (
            [math.exp(one - max(logprobs)) for one in logprobs]
            for logprobs in (answer.choice_logprobs, likely)
        )
        for one, other in zip(got, weights, strict=True):
            if not abs(one / sum(got) - other / sum(weights)) < 1e-3:
                raise WrongReadError(
                    f"probabilities of {given} are read as {answer.choice_logprobs}"
                )
        return True

    def _mutated(self, value: Any, rng: Random) -> bytes:
        action = rng.randrange(8)
        if action == 0:
            return rng.choice(_ODD_BODIES)
        if action == 1:
            return mutate_bytes(json.dumps(value).encode(), rng)
        if action == 2:
            text = mutate_text(json.dumps(value), rng)
            return text.encode(rng.choice(("utf-8", "utf-16", "latin-1")), errors="replace")
        if action == 3 and value["choices"][0]["logprobs"]:
            self._spoil(value["choices"][0]["logprobs"]["content"], rng)
        elif action == 4:
            error = {"message": "upstream", "code": rng.choice((429, 502, "x", None))}
            value["choices"][0] |= rng.choice(({"finish_reason": "error"}, {"error": error}))
            value["choices"][0]["message"]["content"] = rng.choice(("", None, "Final Score: 4"))
        else:
            for _ in range(rng.choice((1, 1, 2))):
                is_chat = isinstance(value, dict) and isinstance(value.get("choices"), list)
                if is_chat and value["choices"] and rng.random() < 0.7:
                    value["choices"][0] = mutate_value(value["choices"][0], rng)
                else:
                    value = mutate_value(value, rng)
        return json_text(value, rng).encode(errors="surrogatepass")

    def _spoil(self, tokens: list[dict[str, Any]], rng: Random) -> None:
        entry = rng.choice(tokens)
        if rng.random() < 0.3:
            entry[rng.choice(("logprob", "token", "top_logprobs"))] = rng.choice(_ODD_LOGPROBS)
        top = entry.get("top_logprobs")
        for other in top if isinstance(top, list) else ():
            if rng.random() < 0.5:
                other["logprob"] = rng.choice(_ODD_LOGPROBS)

    def _response(self, body: bytes, rng: Random, *, is_sound: bool) -> bytes:
        status, kind = (200, _TYPES[0]) if is_sound else (rng.choice(_STATUSES), rng.choice(_TYPES))
        length = len(body) if is_sound or rng.random() < 0.9 else rng.choice((0, 5, len(body) + 9))
        lines = [f"HTTP/1.1 {status} Odd", f"Content-Length: {length}", "Connection: close"]
        if kind:
            lines.append(f"Content-Type: {kind}")
        if not is_sound and rng.random() < 0.1:
            odd = ("Content-Encoding: gzip", "Transfer-Encoding: chunked", "Retry-After: x", "Bad")
            lines.append(
                rng.choice((*odd, "Location: http://[::1", "Location: /v1/x", "Content-Length: -1"))
            )
        response = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        if not is_sound and rng.random() < 0.03:
            return mutate_bytes(response, rng)
        return response

    def _check_judge(self, model: OpenAIModel, rng: Random) -> bool:
        judge = GenerativeJudge(model, Card(rng.choice(("native", "compact", "reasoned", "flex"))))
        task = Task.IMAGE_GENERATION
        candidates = (self.image,) * (2 if judge.family == "flex" else rng.choice((1, 2)))
        sample = Sample(task, "a star", candidates, id="a")
        try:
            (verdict,) = judge.ask([sample])
        except (ServerError, ConfigError):
            return False
        check_verdict(verdict, None)
        if isinstance(verdict, Failed) and "secret" in verdict.reason:
            raise WrongReadError("the key stands in an error")
        return not isinstance(verdict, Failed | Unparsed)

    def _check_answer(self, answer: Any, body: bytes, text: str | None) -> None:
        if not isinstance(answer, Answer):
            if text is not None and isinstance(answer, Failed):
                raise WrongReadError(f"a sound response is refused: {answer.reason}")
            return
        if any(math.isnan(one) or one == math.inf for one in answer.choice_logprobs or ()):
            raise WrongReadError(f"log-probabilities {answer.choice_logprobs}")
        with suppress(ValueError):
            choice = json.loads(body)["choices"][0]
            wanted = _said(choice["message"].get("content"))
            if answer.text != wanted:
                raise WrongReadError(f"{answer.text!r:.60} is not the text of the response")
            if choice.get("finish_reason") == "error" or isinstance(choice.get("error"), dict):
                raise WrongReadError("the error of a server counts as an answer")


def _said(content: Any) -> str:
    """The text of a message, whole or in parts."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if isinstance(part.get("text"), str))
    return (content or "").encode(errors="replace").decode()
