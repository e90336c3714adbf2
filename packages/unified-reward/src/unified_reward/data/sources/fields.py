"""Fields of one published row: its id, texts, numbers and media.

Whether the media exist is not looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Candidate, Example, Image, Task, Video
from unified_reward.core.verdicts import Failed, Scale
from unified_reward.data.sources.source import Source
from unified_reward.data.sources.streams import Raw
from unified_reward.io.rows import Row


UNDERSTANDING = (Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING)

Fields = Mapping[str, Any]


def each(rows: Iterable[Raw], make: Callable[[Fields], Iterable[Example]]) -> Iterator[Row]:
    """Make records of every row; a row that cannot be used comes as one ``Failed``."""
    for line, value in rows:
        try:
            if isinstance(value, Failed):
                raise DataError(value.error)
            made = list(make(value))
        except DataError as error:
            yield failed(line, str(error))
        else:
            yield from (Row(line, record.id, record) for record in made)


def failed(line: int, told: str) -> Row:
    """A row that cannot be used, and why."""
    return Row(line, f"row {line}", Failed(told, DataError(told)))


def given(row: Fields, *columns: str) -> Any:
    """What stands in the first of the columns that holds something; None where none does."""
    held = (row[name] for name in columns if row.get(name) not in (None, ""))
    return next(held, None)


def needed(row: Fields, *columns: str) -> Any:
    """The same.

    Raises:
        DataError: All of the columns are missing or empty.
    """
    value = given(row, *columns)
    if value is None:
        raise DataError(f"nothing in column {' or '.join(columns)}")
    return value


def text(row: Fields, *columns: str) -> str:
    """The text in the first of the columns that holds something.

    Raises:
        DataError: Nothing is there, or something else than text.
    """
    value = needed(row, *columns)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"column {' or '.join(columns)} holds {str(value)[:40]!r}, not text")
    return value


def read_tags(row: Fields, source: Source) -> dict[str, str]:
    """Read the tags of a row: texts of columns, by the option ``tags`` of the source."""
    columns = source.options.get("tags", {}).items()
    values = {tag: given(row, *([at] if isinstance(at, str) else at)) for tag, at in columns}
    return {tag: str(value) for tag, value in values.items() if value is not None}


def identity(row: Fields, *columns: str) -> str:
    """The id in the first of the columns that holds one, else one from the whole row."""
    value = given(row, *columns)
    if value is None:
        content = json.dumps(row, sort_keys=True, default=repr)
        return hashlib.sha256(content.encode()).hexdigest()[:16]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"an id is text or a whole number, not {value!r}")
    return str(value)


def number(value: Any, scale: Scale) -> float:
    """A number, also where it is written as text.

    Raises:
        DataError: It is none, or lies outside the scale.
    """
    try:
        found = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        found = float("nan")
    if found not in scale:
        raise DataError(f"{value!r} is no number on the scale {scale}")
    return found


def medium(value: Any, task: Task, folder: Path) -> Image | Video:
    """The picture or clip that a field stands for, a clip where the task is about clips.

    Args:
        value: A path; a URL, which stands for a file of its last name; the encoded bytes; or
            ``{"bytes", "path"}`` as in Parquet files.
        task: Of the source.
        folder: Where relative paths start.

    Raises:
        DataError: It is nothing of these.
    """
    kind = Video if task in (Task.VIDEO_GENERATION, Task.VIDEO_UNDERSTANDING) else Image
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return kind(value)
    if not isinstance(value, str) or not value:
        raise DataError(f"a picture or clip is a path or bytes, not {str(value)[:40]!r}")
    is_url = value.startswith(("http://", "https://"))
    return kind(folder / (value.partition("?")[0].rpartition("/")[2] if is_url else value))


def candidate(value: Any, task: Task, folder: Path) -> Candidate:
    """What is judged: an answer in words where the task is understanding, else a medium.

    Raises:
        DataError: It is neither.
    """
    if task not in UNDERSTANDING:
        return medium(value, task, folder)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"an answer is text, not {str(value)[:40]!r}")
    return value
