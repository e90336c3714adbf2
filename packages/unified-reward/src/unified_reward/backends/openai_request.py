"""Requests of the OpenAI chat protocol, in the dialect that a server takes.

Servers differ in the fields they accept. A dialect is what one server was found to accept. Knows
no connection.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from unified_reward.backends.openai_options import OpenAIOptions
from unified_reward.backends.openai_response import Fault
from unified_reward.core.requests import Request
from unified_reward.media import data_url, fit_pixels


TOP_LOGPROBS = 20
"""Alternatives requested per token; the most that the protocol allows."""
_LIMITS = ("max_tokens", "max_completion_tokens")
_TOO_LONG = re.compile(r"context|too (large|long|many)|exceed|maximum|at most", re.IGNORECASE)
_TOO_LARGE = re.compile(
    r"(too|entity) large|payload|(body|request|file|image) size|exceeds? .*\d *[km]?b\b|context",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Dialect:
    """Fields that a server takes."""

    token_limit: str = "max_tokens"  # noqa: S105  the name of a field
    temperature: bool = True
    seed: bool = True
    top_logprobs: int = TOP_LOGPROBS
    """0 if it takes neither ``logprobs`` nor ``top_logprobs``."""

    def fields(
        self, request: Request, extra: Mapping[str, Any], *, vote: int = 0
    ) -> dict[str, Any]:
        """Fields of a request beside model and messages.

        Args:
            request: The request.
            extra: Fields over these; a field that is None is left out.
            vote: 0 for the greedy answer, else the number of a sampled one, which is asked with
                this seed and without log-probabilities.
        """
        fields: dict[str, Any] = {self.token_limit: request.max_new_tokens}
        if self.temperature:
            fields["temperature"] = 1.0 if vote else 0.0
        if self.seed:
            fields["seed"] = vote
        if request.wants_logprobs and self.top_logprobs:
            fields |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        if any(name in extra for name in _LIMITS):
            del fields[self.token_limit]
        fields |= extra
        if vote and isinstance(extra.get("seed"), int):
            fields["seed"] = extra["seed"] + vote
        has_logprobs = request.wants_logprobs and fields.get("logprobs") and not vote
        return {
            name: value
            for name, value in fields.items()
            if value is not None and (has_logprobs or "logprobs" not in name)
        }

    def after(self, fault: Fault, own: Collection[str]) -> Dialect | None:
        """The dialect without the fields that a refusal names; None if it names none.

        Args:
            fault: The refusal.
            own: Fields of the refused request that this library chose.
        """
        named = {name for name in own if _names(fault, name)}
        changed = self
        if named & {"logprobs", "top_logprobs"}:
            changed = replace(changed, top_logprobs=_allowed(fault.detail, self.top_logprobs))
        if "max_tokens" in named and not _TOO_LONG.search(fault.detail):
            changed = replace(changed, token_limit=_LIMITS[1])
        changed = replace(
            changed,
            temperature=self.temperature and "temperature" not in named,
            seed=self.seed and "seed" not in named,
        )
        return None if changed == self else changed

    def trials(self, own: Collection[str]) -> Iterator[Dialect]:
        """Dialects to try after a refusal that names no field: each field left out, then all."""
        if "logprobs" in own:
            yield replace(self, top_logprobs=0)
        if "seed" in own:
            yield replace(self, seed=False)
        if "temperature" in own:
            yield replace(self, temperature=False)
        if "max_tokens" in own:
            yield replace(self, token_limit=_LIMITS[1])
        if len({"logprobs", "seed", "temperature", "max_tokens"} & {*own}) > 1:
            yield Dialect(_LIMITS[1], temperature=False, seed=False, top_logprobs=0)

    def both(self, other: Dialect) -> Dialect:
        """The dialect without the fields that either lacks."""
        return Dialect(
            max(self.token_limit, other.token_limit, key=_LIMITS.index),
            self.temperature and other.temperature,
            self.seed and other.seed,
            min(self.top_logprobs, other.top_logprobs),
        )

    def notes(self, request: Request) -> tuple[str, ...]:
        """Differences from the full dialect, for people."""
        notes: list[str] = []
        left_out = [name for name in ("temperature", "seed") if not getattr(self, name)]
        if request.wants_logprobs and not self.top_logprobs:
            left_out.append("logprobs")
        if left_out:
            notes.append(f"the server refuses {', '.join(left_out)}: left out")
        if request.wants_logprobs and 0 < self.top_logprobs < TOP_LOGPROBS:
            notes.append(f"the server gives {self.top_logprobs} log-probabilities a token")
        if self.token_limit != _LIMITS[0]:
            notes.append(f"max_tokens is sent as {self.token_limit}")
        return tuple(notes)


def _names(fault: Fault, name: str) -> bool:
    pattern = rf"(?<![\w-]){name}(?![\w-])"
    return re.search(pattern, f"{fault.param} {fault.detail}", re.IGNORECASE) is not None


def _allowed(detail: str, refused: int) -> int:
    """The largest number below the refused one that a refusal names; 0 if it names none."""
    numbers = [int(text) for text in re.findall(r"(?<![\w.-])\d{1,2}(?![\w.]*\w)", detail)]
    return max((number for number in numbers if 1 < number < refused), default=0)


def write_messages(
    request: Request, options: OpenAIOptions
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The messages of a request, and notes on images that were changed."""
    content: list[dict[str, Any]] = []
    is_scaled = has_images = False
    for part in request.parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
            continue
        image = part if options.max_pixels is None else fit_pixels(part, options.max_pixels)
        is_scaled |= image is not part
        has_images = True
        url = data_url(image, options.image_format, quality=options.image_quality)
        content.append({"type": "image_url", "image_url": {"url": url}})
    notes: list[str] = []
    if is_scaled:
        notes.append(f"the images were scaled to at most {options.max_pixels} pixels")
    if has_images and options.image_format != "png":
        form = options.image_format
        notes.append(f"the images were sent as {form} of quality {options.image_quality}")
    return [{"role": "user", "content": content}], tuple(notes)


def remedy(fault: Fault, request: Request) -> str:
    """Advice where a request with images is refused for its size; empty otherwise."""
    has_images = any(not isinstance(part, str) for part in request.parts)
    if not has_images or not (fault.status == 413 or _TOO_LARGE.search(fault.detail)):
        return ""
    return "; send smaller images: max_pixels (--max-pixels), image_format jpeg (--image-format)"
