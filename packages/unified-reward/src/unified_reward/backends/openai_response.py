"""Responses of servers with the OpenAI chat protocol: answers, refusals, and what is neither.

Knows the JSON that servers and gateways send, but no connection, no task and no retries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple, cast

from unified_reward.core.errors import one_line
from unified_reward.core.verdicts import Unparsed


class Completion(NamedTuple):
    """Text of an answer, and the entries of its tokens where the server sent any."""

    text: str
    tokens: Sequence[Any] = ()


@dataclass(frozen=True)
class Fault:
    """A request without an answer."""

    trouble: str
    """The server's act, such as ``answered 429 Too Many Requests``."""
    detail: str = ""
    """The server's own words."""
    status: int = 0
    """HTTP status, or the one that a response of status 200 holds; 0 if there is none."""
    param: str = ""
    """Field of the request that the server names."""
    retry_after: str = ""
    is_lost: bool = False
    """No response came, and one may come later."""
    source: str = ""
    """The proxy, where it is at fault instead of the server."""

    @property
    def is_passing(self) -> bool:
        """True if the same request may be answered later."""
        is_passing = self.status in (408, 425, 429) or self.status >= 500
        return self.is_lost or (is_passing and self.status != 501)

    @property
    def is_refusal(self) -> bool:
        """True if another request may be answered."""
        return self.status in (400, 422)

    @property
    def may_name_a_field(self) -> bool:
        """True if the words may name a field that is refused: 403 is OpenAI's for logprobs."""
        return self.is_refusal or self.status in (403, 404, 501)


_CUT = ("length", "max_tokens")
_BROKEN = ("error", "abort", "aborted", "cancelled")
_FILTERED = ("content_filter", "safety", "recitation", "prohibited", "blocklist", "spii")
"""Parts of the words that servers give for an answer they withhold."""
_ENDED = ("", "none", "stop", "eos", "end_turn", "tool_calls", "function_call", *_CUT)
"""Ends of an answer of the judge."""
_CODES = {
    "rate_limit": 429,
    "too_many": 429,
    "resource_exhausted": 429,
    "overload": 529,
    "unavailable": 503,
    "timeout": 504,
    "deadline": 504,
    "internal": 500,
    "server_error": 500,
    "api_error": 500,
}
"""Statuses by parts of the words that servers give for them."""


def read_response(
    status: int, content: bytes, headers: Mapping[str, str]
) -> Mapping[str, Any] | Fault:
    """The JSON object of a response; a fault if it is an error, of whatever status, or no JSON."""
    body = _json(content)
    if isinstance(body, list) and len(body) == 1:
        (body,) = cast("list[object]", body)
    found = cast("Mapping[str, Any]", body) if isinstance(body, Mapping) else {}
    is_success = 200 <= status < 300
    retry_after = headers.get("Retry-After", "")
    if error := _error(found, is_success=is_success):
        detail, param, code = error
        if not is_success:
            code = code if code == 402 else status
            return Fault(f"answered {_named(status)}", detail, code, param, retry_after)
        trouble = f"answered with error {_named(code)}" if code else "answered with an error"
        return Fault(trouble, detail, code, param, retry_after)
    text = content.decode(errors="replace")
    if 300 <= status < 400:
        target = headers.get("Location", "").partition("?")[0]
        return Fault(f"answered {_named(status)}, which is not followed", target, status)
    if not is_success:
        return Fault(f"answered {_named(status)}", text, status, retry_after=retry_after)
    return found if isinstance(body, Mapping) else Fault(_no_json(text), text)


def read_completion(body: Mapping[str, Any]) -> Completion | Unparsed | Fault:
    """The answer in the JSON of a chat completion.

    ``Unparsed`` where the judge answered, but with no text: a refusal of its own, or reasoning that
    used up all tokens. A fault where the server has no answer of the judge.
    """
    choices = body.get("choices")
    match choices:
        case []:
            return Fault("answered without a choice", json.dumps(body))
        case [{"message": {**message}} as choice, *_]:
            pass
        case _:
            return Fault("answered something other than a chat completion", json.dumps(body))
    end = str(choice.get("finish_reason")).lower()
    if any(word in end for word in _FILTERED):
        return Fault(f"withheld the answer (finish_reason {end})", _first_text(message, "refusal"))
    text = _text(message.get("content"))
    if text is None:
        return Fault("answered something other than a chat completion", json.dumps(body))
    if not text.strip():
        if unparsed := _without_text(message, end):
            return unparsed
        if end not in _ENDED:
            return Fault(f"ended without an answer (finish_reason {end})")
    match choice.get("logprobs"):
        case {"content": [*tokens]}:
            return Completion(text, tokens)
    return Completion(text)


def _without_text(message: Mapping[str, Any], end: str) -> Unparsed | None:
    if refusal := _first_text(message, "refusal"):
        return Unparsed(f"the judge refuses to answer: {one_line(refusal, 200)}", refusal)
    reasoning = _first_text(message, "reasoning_content", "reasoning")
    if end in _CUT:
        return Unparsed(
            "the answer is empty: all its tokens were used up before it, as by reasoning; allow "
            "more of them by max_tokens or max_completion_tokens in extra_body (--extra-body)",
            reasoning,
        )
    return Unparsed("the answer is empty: reasoning only", reasoning) if reasoning else None


def _first_text(message: Mapping[str, Any], *names: str) -> str:
    """The first of these fields that is text, or of the parts of the content that are so called."""
    for holder in (message, *_mappings(message.get("content"))):
        for name in names:
            value = holder.get(name)
            if isinstance(value, str) and value.strip():
                return _writable(value)
    return ""


def _text(content: object) -> str | None:
    """Text of a message's content, which may come in parts; None if it is neither."""
    if content is None:
        return ""
    if isinstance(content, str):
        return _writable(content)
    parts = list(_mappings(content))
    if not isinstance(content, list) or len(parts) < len(cast("list[object]", content)):
        return None
    texts = (part.get("text") for part in parts)
    return _writable("".join(text for text in texts if isinstance(text, str)))


def _writable(text: str) -> str:
    """Text that can be written to a file: JSON may hold halves of letters."""
    return text.encode("utf-8", "replace").decode()


def _json(content: bytes) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _no_json(text: str) -> str:
    """A successful response that holds no JSON object, in words."""
    start = text.lstrip("\ufeff \r\n\t")[:8].lower()
    if not start:
        return "answered with an empty body"
    if start.startswith("<"):
        return "answered with a page, not with JSON; is this the base URL of a chat server?"
    if start.startswith(("data:", "event:", ":")):
        return "answered with a stream of events, which was not requested"
    if start.startswith("{"):
        return "answered something other than a chat completion, broken or cut off JSON"
    return "answered something other than a chat completion"


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _error(body: Mapping[str, Any], *, is_success: bool) -> tuple[str, str, int] | None:
    """Words, field and status of the error that a body holds; None if it holds none."""
    error = _error_object(body, is_success=is_success)
    if error is None:
        return None
    detail = _words(error) or ("" if error is body else json.dumps(error))
    if not detail:
        return None
    metadata = next(_mappings([error.get("metadata")]), {})
    code = next(_statuses((error, metadata, body)), 0)
    param = error.get("param")
    return detail, param if isinstance(param, str) else "", code


def _error_object(body: Mapping[str, Any], *, is_success: bool) -> Mapping[str, Any] | None:
    choice = next(_mappings(body.get("choices")), {})
    for given in (body.get("error"), choice.get("error")):
        if isinstance(given, Mapping):
            error = cast("Mapping[str, Any]", given)
            if any(error.values()):
                return error
        elif given:
            return {**body, "message": given} if isinstance(given, str) else body
    end = str(choice.get("finish_reason")).lower()
    if end in _BROKEN:
        return {"message": f"the answer ended with finish_reason {end}"}
    return None if is_success and body.keys() & {"choices", "data"} else body


def _mappings(values: object) -> Iterator[Mapping[str, Any]]:
    for value in cast("list[object]", values) if isinstance(values, list) else []:
        if isinstance(value, Mapping):
            yield cast("Mapping[str, Any]", value)


def _words(error: Mapping[str, Any]) -> str:
    """Message of an error, with that of the model behind a gateway; of a list, all of them."""
    found: list[str] = []
    for value in (error.get("message"), error.get("detail"), error.get("msg")):
        found += [value] if isinstance(value, str) else []
        for item in _mappings(value):
            place = item.get("loc")
            names = cast("list[object]", place) if isinstance(place, list) else []
            found.append(f"{'.'.join(map(str, names))}: {item.get('msg')}")
    for metadata in _mappings([error.get("metadata")]):
        raw = metadata.get("raw")
        found += [raw if isinstance(raw, str) else json.dumps(raw)] if raw else []
    return ": ".join(found)


def _statuses(holders: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    """Statuses that an error names: numbers first, then words."""
    values = [
        holder.get(key)
        for holder in holders
        for key in ("code", "status", "status_code", "type", "error_type")
    ]
    texts = [str(value).strip().lower() for value in values if not isinstance(value, bool)]
    if "insufficient_quota" in texts:
        yield 402
    yield from (int(text) for text in texts if text.isdecimal() and 400 <= int(text[:9]) < 600)
    for text in texts:
        yield from (code for word, code in _CODES.items() if word in text.replace(" ", "_"))
