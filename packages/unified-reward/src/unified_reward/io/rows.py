"""Rows of JSON and the values they stand for.

Knows the file formats, not what is asked or answered. pydantic checks what comes in.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unified_reward.core.errors import DataError
from unified_reward.core.samples import (
    Candidate,
    Conversation,
    Example,
    Image,
    Sample,
    Target,
    Task,
    Video,
)
from unified_reward.core.verdicts import Failed, Scale, Winner


SCHEMA = 1


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class PartRow(_Row):
    """One medium or text: exactly one of the three keys."""

    image: str | None = None
    video: str | list[str] | None = None
    text: str | None = None

    def value(self, folder: Path) -> Image | Video | str:
        """The part itself; relative paths start at ``folder``."""
        given = [key for key in ("image", "video", "text") if getattr(self, key) is not None]
        if len(given) != 1:
            raise DataError(
                'a part has one of the keys "image", "video", "text", not '
                f"{' and '.join(given) or 'none'}"
            )
        if self.image is not None:
            return Image(folder / self.image)
        if isinstance(self.video, str):
            return Video(folder / self.video)
        if self.video is not None:
            return Video(tuple(Image(folder / frame) for frame in self.video))
        return cast("str", self.text)


class TargetRow(_Row):
    """What people say about a sample."""

    score: float | None = None
    scale: tuple[float | None, float | None] | None = None
    aspects: dict[str, float] = Field(default_factory=dict[str, float])
    winner: Winner | None = None
    rationale: str = ""

    def value(self) -> Target:
        """The target itself."""
        scale = Scale(*self.scale) if self.scale else None
        if self.score is not None and scale is not None and self.score not in scale:
            raise DataError(f"score {self.score:g} is outside its scale {scale}")
        if self.score is None and scale is not None:
            outside = [name for name, value in self.aspects.items() if value not in scale]
            if outside:
                raise DataError(f"{', '.join(outside)} outside the scale of aspects {scale}")
        return Target(self.score, scale, self.aspects, self.winner, self.rationale)


class ExampleRow(_Row):
    """A sample row, with a target where it is a record."""

    id: str = ""
    task: Task
    prompt: str
    candidates: list[PartRow | list[PartRow]] = Field(default_factory=list[Any])
    context: list[PartRow] = Field(default_factory=list[PartRow])
    criteria: str = ""
    target: TargetRow | None = None
    source: str = ""
    schema_: int = Field(default=SCHEMA, alias="schema")
    messages: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])


@dataclass(frozen=True)
class Row:
    """One line of a file: what it holds, or why it cannot be used."""

    line: int
    """Counted from 1."""
    id: str
    content: Example | Conversation | Failed
    start: int = 0
    """Byte at which the line begins; 0 where rows are not lines."""


def read_examples(path: Path) -> Iterator[Row]:
    """Read a JSONL file of samples or records, one row a line, in constant memory.

    A row that cannot be used (no JSON, wrong keys, a repeated id) comes as ``Failed`` and the
    others go on. A row without an id gets one from its content.

    Raises:
        DataError: The file cannot be opened.
    """
    seen: set[str] = set()
    for line, start, raw in record_lines(path):
        content = parse_row(raw, path.parent)
        if isinstance(content, Failed):
            content = _failed(f"line {line}: {content.error}")
            yield Row(line, f"line {line}", content, start)
            continue
        name = content.id
        if name in seen:
            again = _failed(f"line {line}: id {name!r} stands above already; ids must differ")
            yield Row(line, f"line {line}", again, start)
            continue
        seen.add(name)
        yield Row(line, name, content, start)


def record_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number, counted from 1, first byte and content of every line that is not blank.

    Raises:
        DataError: The file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            start = 0
            for line, raw in enumerate(file, 1):
                if raw.strip():
                    yield line, start, raw
                start += len(raw)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def parse_row(raw: bytes, folder: Path) -> Example | Conversation | Failed:
    """One line as a record; relative paths start at ``folder``."""
    try:
        row = ExampleRow.model_validate_json(raw)
        if not row.id:
            row.id = hashlib.sha256(raw.strip()).hexdigest()[:16]
        return _record(row, folder)
    except ValidationError as error:
        told = [f"{'.'.join(map(str, e['loc'])) or 'row'}: {e['msg']}" for e in error.errors()]
        return _failed("; ".join(told[:3]))
    except DataError as error:
        return _failed(str(error))


def _failed(told: str) -> Failed:
    return Failed(told, DataError(told))


def _record(row: ExampleRow, folder: Path) -> Example | Conversation:
    candidates: list[Candidate] = [
        tuple(part.value(folder) for part in one) if isinstance(one, list) else one.value(folder)
        for one in row.candidates
    ]
    context = [part.value(folder) for part in row.context]
    if any(isinstance(part, str) for part in context):
        raise DataError("context holds pictures and clips, not text")
    media = cast("tuple[Image | Video, ...]", tuple(context))
    target = row.target.value() if row.target else Target()
    messages = tuple(row.messages)
    if messages and not candidates:
        return Conversation(row.task, media, messages, target, row.source, row.id)
    sample = Sample(row.task, row.prompt, tuple(candidates), media, row.criteria, row.id)
    return Example(sample, target, row.source, messages)


def example_row(record: Example | Conversation, folder: Path) -> dict[str, Any]:
    """Write a record as a row; its media must be files, given relative to ``folder``.

    A conversation has no prompt and no candidates, and what it shows as context.

    Raises:
        DataError: A medium is in memory, not in a file.
    """
    target = record.target
    sample = record.sample if isinstance(record, Example) else None
    context = sample.context if sample else record.media
    row: dict[str, Any] = {
        "id": record.id,
        "task": record.task.value,
        "prompt": sample.prompt if sample else "",
        "candidates": [part_row(one, folder) for one in sample.candidates] if sample else [],
        "context": [part_row(one, folder) for one in context],
        "criteria": sample.criteria if sample else "",
        "target": {
            "score": target.score,
            "scale": [target.scale.low, target.scale.high] if target.scale else None,
            "aspects": dict(target.aspects),
            "winner": target.winner,
            "rationale": target.rationale,
        },
        "source": record.source,
        "schema": SCHEMA,
    }
    return row | ({"messages": [dict(m) for m in record.messages]} if record.messages else {})


def part_row(part: Candidate, folder: Path) -> Any:
    """A candidate as it stands in rows of a file in ``folder``.

    Raises:
        DataError: A medium is in memory, not in a file.
    """
    if isinstance(part, str):
        return {"text": part}
    if isinstance(part, Image | Video):
        return {"image" if isinstance(part, Image) else "video": _relative(part.source, folder)}
    return [part_row(inner, folder) for inner in part]


def _relative(source: Any, folder: Path) -> str | list[str]:
    if isinstance(source, tuple):
        frames = cast("tuple[Image, ...]", source)
        return [cast("str", _relative(frame.source, folder)) for frame in frames]
    if not isinstance(source, str | Path):
        raise DataError("a medium must be a file to stand in a row; write it first")
    return os.path.relpath(source, folder)
