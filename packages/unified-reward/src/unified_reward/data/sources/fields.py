"""Fields of one published row: its id, texts, numbers and media.

Media are not opened, and need not exist.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Candidate, Example, Image, Task, Video
from unified_reward.core.verdicts import Failed, Scale
from unified_reward.data.sources.source import Source
from unified_reward.data.sources.streams import Raw
from unified_reward.io.rows import Row, id_text, unusable
from unified_reward.io.text import to_float


UNDERSTANDING = (Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING)

Fields = Mapping[str, Any]


def each(rows: Iterable[Raw], make: Callable[[Fields], Iterable[Example]]) -> Iterator[Row]:
    """Make records of every row; a row that cannot be used comes as one ``Failed``."""
    for line, value in rows:
        try:
            if isinstance(value, Failed):
                raise DataError(value.reason)
            made = list(make(value))
        except DataError as error:
            yield failed(line, str(error))
        else:
            yield from (Row(line, record.id, record) for record in made)


def failed(line: int, reason: str) -> Row:
    """Return a row that cannot be used, with the reason and without an id."""
    return replace(unusable(reason), line=line)


def given(row: Fields, *columns: str) -> Any:
    """Return the first value of the columns that is not empty; None where all are."""
    values = (row[name] for name in columns if row.get(name) not in (None, ""))
    return next(values, None)


def needed(row: Fields, *columns: str) -> Any:
    """Return the first value of the columns that is not empty.

    Raises:
        DataError: All of the columns are missing or empty.
    """
    value = given(row, *columns)
    if value is None:
        raise DataError(f"nothing in column {' or '.join(columns)}")
    return value


def text(row: Fields, *columns: str) -> str:
    """Return the first text of the columns that is not empty.

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
    """Return the first id of the columns, else an id made from the whole row."""
    value = given(row, *columns)
    if value is None:
        content = json.dumps(row, sort_keys=True, default=repr)
        return hashlib.sha256(content.encode()).hexdigest()[:16]
    name = id_text(value)
    if not isinstance(name, str):
        raise DataError(f"an id is text or a whole number, not {value!r}")
    return name


def number(value: Any, scale: Scale) -> float:
    """Read a number, also where it is written as text.

    Raises:
        DataError: It is none, or lies outside the scale.
    """
    try:
        result = to_float(value)
    except ValueError:
        result = float("nan")
    if result not in scale:
        raise DataError(f"{value!r} is not a number on the scale {scale}")
    return result


def medium(value: Any, task: Task, folder: Path) -> Image | Video:
    """Return the image or video of a field, by the task.

    Args:
        value: A path; a URL, of which the file name is used; the encoded bytes; or
            ``{"bytes", "path"}`` as in Parquet files.
        task: Task of the source.
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
        raise DataError(f"an image or video is a path or bytes, not {str(value)[:40]!r}")
    is_url = value.startswith(("http://", "https://"))
    return kind(folder / (value.partition("?")[0].rpartition("/")[2] if is_url else value))


def candidate(value: Any, task: Task, folder: Path) -> Candidate:
    """Return a candidate: an answer in words where the task is understanding, else a medium.

    Raises:
        DataError: It is neither.
    """
    if task not in UNDERSTANDING:
        return medium(value, task, folder)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"an answer is text, not {str(value)[:40]!r}")
    return value
