"""Prompts with their candidates: rows of a file, before anything is judged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from pydantic import BaseModel, ValidationError

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Candidate, Image, Task, Video
from unified_reward.core.verdicts import Failed
from unified_reward.io.rows import ExampleRow, record_lines


@dataclass(frozen=True)
class Pool:
    """One prompt and any number of candidates."""

    id: str
    task: Task
    prompt: str
    candidates: tuple[Candidate, ...] = ()
    context: tuple[Image | Video, ...] = ()
    criteria: str = ""


@dataclass(frozen=True)
class PoolRow:
    """One line of a file: a pool, or why it cannot be used."""

    line: int
    id: str
    content: Pool | Failed


class _PoolRow(ExampleRow):
    """What ``unified-reward candidates`` writes; a plain sample row is one too."""

    status: Literal["generated"] = "generated"
    reason: str | None = None
    policy: str = ""
    seed: int = 0
    duplicates: int = 0


class _FailedRow(BaseModel):
    """A row of a prompt that got no candidates; it may lack everything else."""

    id: str
    status: Literal["failed"]
    reason: str | None = None


def read_pools(path: Path) -> Iterator[PoolRow]:
    """Rows of a file, one a line; one that cannot be used is ``Failed``, the others go on.

    Raises:
        DataError: The file cannot be opened.
    """
    seen: set[str] = set()
    for line, _, raw in record_lines(path):
        content = parse_pool(raw, path.parent)
        name = _failed_before(raw) if isinstance(content, Failed) else content.id
        if name and name in seen:
            content = Failed(f"id {name!r} stands above already; ids must differ")
            name = ""
        name = name or f"line {line}" + " again" * (f"line {line}" in seen)
        seen.add(name)
        if isinstance(content, Failed):
            content = Failed(f"line {line}: {content.error}")
        yield PoolRow(line, name, content)


def _failed_before(raw: bytes) -> str:
    """The id of a row whose candidates could not be made; empty for any other row."""
    try:
        return _FailedRow.model_validate_json(raw).id
    except ValidationError:
        return ""


def parse_pool(raw: bytes, folder: Path) -> Pool | Failed:
    """One line as a pool; relative paths start at ``folder``."""
    if _failed_before(raw):
        told = _FailedRow.model_validate_json(raw).reason
        return Failed(f"its candidates could not be made: {told}")
    try:
        row = _PoolRow.model_validate_json(raw)
        candidates = [
            tuple(part.value(folder) for part in one)
            if isinstance(one, list)
            else one.value(folder)
            for one in row.candidates
        ]
        context = [part.value(folder) for part in row.context]
    except ValidationError as error:
        told = [f"{'.'.join(map(str, e['loc'])) or 'row'}: {e['msg']}" for e in error.errors()]
        return Failed("; ".join(told[:3]))
    except DataError as error:
        return Failed(str(error))
    if any(isinstance(part, str) for part in context):
        return Failed("context holds pictures and clips, not text")
    media = cast("tuple[Image | Video, ...]", tuple(context))
    name = row.id or hashlib.sha256(raw.strip()).hexdigest()[:16]
    return Pool(name, row.task, row.prompt, tuple(candidates), media, row.criteria)
