"""Responses that mix text and images, two to a prompt that may mix them too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Candidate, Example, Image, Sample, Target, Video
from unified_reward.core.verdicts import Winner
from unified_reward.data.sources.fields import Fields, each, identity, medium, needed, text
from unified_reward.data.sources.source import Source
from unified_reward.data.sources.streams import Raw
from unified_reward.io.rows import Row


_CHOSEN: dict[str, Winner] = {"A": "first", "B": "second"}


def read(rows: Iterable[Raw], source: Source, folder: Path) -> Iterator[Row]:
    """Read pairs with ``prompt_content``, ``response_a``, ``response_b`` and ``chosen``.

    Content is a list of ``["text", words]`` and ``["image", path]``. The texts of a prompt are
    joined, and its images are the context. A response of one image is that image, of text
    alone that text, any other its parts in order.

    Args:
        rows: The rows of the file.
        source: Whose they are.
        folder: Where relative media paths start.
    """
    return each(rows, lambda row: [_pair(row, source, folder)])


def _pair(row: Fields, source: Source, folder: Path) -> Example:
    parts = _parts(row, "prompt_content", source, folder)
    prompt = "\n".join(part for part in parts if isinstance(part, str))
    context = tuple(part for part in parts if not isinstance(part, str))
    responses = [_response(row, f"response_{side}", source, folder) for side in "ab"]
    chosen = text(row, "chosen").upper()
    if chosen not in _CHOSEN:
        raise DataError(f"chosen is A or B, not {chosen[:40]!r}")
    name = identity(row, "id", "pair_id")
    sample = Sample(source.task, prompt, tuple(responses), context, id=name)
    return Example.of(
        sample,
        Target(winner=_CHOSEN[chosen]),
        tags={"prompt_source": str(row.get("prompt_source", ""))},
    )


def _response(row: Fields, column: str, source: Source, folder: Path) -> Candidate:
    response = needed(row, column)
    if not isinstance(response, dict):
        raise DataError(f"column {column} holds {str(response)[:40]!r}, not a response")
    parts = _parts(response, "response_content", source, folder)
    if all(isinstance(part, str) for part in parts):
        joined = "\n".join(map(str, parts))
        return joined if source.options.get("answers") else (joined,)
    return parts[0] if len(parts) == 1 else tuple(parts)


def _parts(row: Fields, column: str, source: Source, folder: Path) -> list[Image | Video | str]:
    content = needed(row, column)
    if not isinstance(content, list):
        raise DataError(f"column {column} holds {str(content)[:40]!r}, not a list of parts")
    parts: list[Image | Video | str] = []
    for part in content:
        kind, value = _part(part)
        parts.append(value if kind == "text" else medium(value, source.task, folder))
    return parts


def _part(part: Any) -> tuple[str, str]:
    match part:
        case ["text" | "image" as kind, str(value)]:
            return kind, value
    raise DataError(f'a part is ["text", words] or ["image", path], not {str(part)[:40]!r}')
