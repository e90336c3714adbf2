"""Options of a model on a server, and the checks of what is given to reach it.

Knows no request and no response.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Literal, cast

import httpx

from unified_reward.core.errors import ConfigError


KEY_VARIABLE = "UNIFIED_REWARD_API_KEY"
"""Read where no key is passed. Not OPENAI_API_KEY: that one must never reach another's server."""
_OWN_FIELDS = {"messages": "the question", "model": "model=", "stream": "one answer at a time"}
_OWN_HEADERS = {"content-length", "content-type", "transfer-encoding", "connection"}
_API_PATHS = ("/chat/completions", "/models", "/completions")


@dataclass(frozen=True)
class OpenAIOptions:
    """Concurrency, timeouts, retries, and what is sent."""

    max_concurrency: int = 16
    """Requests in flight at once, >= 1."""
    timeout_s: float = 120.0
    """Longest wait for one whole response, in seconds, > 0."""
    retries: int = 5
    """Further attempts after a lost connection, a timeout or a passing refusal (status 408, 425,
    429, 5xx, also inside an answer of status 200); >= 0."""
    backoff_s: float = 0.5
    """Wait before the first retry, in seconds, >= 0; doubles each time."""
    max_wait_s: float = 60.0
    """Longest wait before a retry, in seconds, >= 0, whatever ``Retry-After`` asks for."""
    extra_body: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the request's JSON, over those of this library; a field that is None is left out:
    ``{"seed": None, "top_k": 1}``."""
    extra_headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Headers of every request, over those of this library. Secrets: never in a message."""
    max_pixels: int | None = None
    """Larger images are scaled down to this width times height, >= 1; None for no limit."""
    image_format: Literal["png", "jpeg", "webp"] = "png"
    """Encoding of images; png is lossless, the others are smaller."""
    image_quality: int = 95
    """Quality of jpeg and webp, 1 to 100."""

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
        if self.max_pixels is not None and self.max_pixels < 1:
            raise ConfigError(f"max_pixels must be at least 1, not {self.max_pixels}")
        if self.image_format not in ("png", "jpeg", "webp"):
            raise ConfigError(f"image_format is png, jpeg or webp, not {self.image_format!r}")
        if not 1 <= self.image_quality <= 100:
            raise ConfigError(f"image_quality is 1 to 100, not {self.image_quality}")
        _check_body(self.extra_body)
        _check_headers(self.extra_headers)


def _check_body(fields: object) -> None:
    if not isinstance(fields, Mapping):
        raise ConfigError(f"extra_body maps names to values, unlike {fields!r}")
    try:
        json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"extra_body cannot be written as JSON: {error}") from error
    for name in cast("Mapping[str, Any]", fields):
        if name in _OWN_FIELDS:
            raise ConfigError(f"extra_body cannot set {name!r}, which is {_OWN_FIELDS[name]}")


def _check_headers(headers: object) -> None:
    if not isinstance(headers, Mapping):
        raise ConfigError("extra_headers maps names to texts")
    for name, value in cast("Mapping[object, object]", headers).items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise ConfigError(f"extra_headers maps names to texts, and {name!r} to none")
        if not re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", name, re.ASCII):
            raise ConfigError(f"{name!r} is not a name of an HTTP header")
        if name.lower() in _OWN_HEADERS:
            raise ConfigError(f"the header {name} cannot be set: it follows from the request")
        check_header_value(value, f"the header {name}")


def check_header_value(value: str, name: str) -> None:
    """Refuse what an HTTP header cannot carry.

    Raises:
        ConfigError: Names the header, not its value, which is a secret.
    """
    if not (value.isascii() and value.isprintable()):
        raise ConfigError(f"{name} has characters that are invalid in an HTTP header")


def checked_url(url: str) -> httpx.URL:
    """Read the base URL of a server; ``api-version``, as of Azure, is the only query it may have.

    Raises:
        ConfigError: It is not one, or carries a login or another query, which may be a secret.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{url!r} is not a URL: {error}") from error
    if parsed.userinfo:
        # The message omits the URL: its login is a secret.
        raise ConfigError("a server's URL must not carry a login; pass the key as api_key")
    if set(parsed.params) - {"api-version"}:
        raise ConfigError(
            "a server's URL may have no query but api-version: the base URL is such as "
            "http://localhost:8000/v1, and a key is api_key or a header of extra_headers"
        )
    is_http = parsed.scheme in ("http", "https") and parsed.host and (parsed.port or 1) < 65536
    if not is_http or parsed.fragment:
        raise ConfigError(
            f"{url!r} is not the base URL of a server, such as http://localhost:8000/v1"
        )
    path = parsed.path.rstrip("/")
    for end in _API_PATHS:
        if path.endswith(end):
            raise ConfigError(f"{url!r} is not the base URL of a server: leave out {end}")
    return parsed


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
