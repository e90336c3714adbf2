"""Files of prompts: a prompt a line, rows with any usual names of columns, published layouts.

GenEval (arXiv:2310.11513), PartiPrompts (arXiv:2206.10789), HPDv2 (arXiv:2306.09341), VBench
(arXiv:2311.17982) and DrawBench (arXiv:2205.11487) are read as published. A row that cannot be used
keeps its number, so that the files of the others stay theirs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, cast

from unified_reward.core.errors import DataError, one_line
from unified_reward.core.paths import is_file, is_folder
from unified_reward.core.samples import Example, Task
from unified_reward.core.verdicts import Failed
from unified_reward.core.words import count_of
from unified_reward.data.sources.streams import raw_rows
from unified_reward.evaluate.outputs import CATEGORY, CATEGORY_SEPARATOR
from unified_reward.io.rows import id_text, read_row
from unified_reward.io.text import check_is_text, parse_json, read_text


PROMPT_COLUMNS = ("prompt", "prompts", "caption", "text", "prompt_en", "instruction", "question")
"""Columns of the prompt, the first that is there; upper and lower case are the same."""
_ID_COLUMNS = ("id", "prompt_id")
_CATEGORY_COLUMNS = ("category", "tag", "dimension", "style")
_SOURCE_COLUMNS = ("source_image", "input_image")
_TAGS = ("challenge",)
_STYLES = ("anime", "concept-art", "paintings", "photo")
"""Files of HPDv2 by name; each is an array of prompts of one style."""
_SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet")
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_NAMED = 5
"""Rows and ids named in a note; the others are counted."""

_Entry = tuple[str, dict[str, Any] | Failed]
"""Place of a row for people, such as ``line 7``, and its values."""


@dataclass(frozen=True)
class PromptFile:
    """Prompts by id, with the number of each in its file."""

    prompts: Mapping[str, Example]
    """In the order of the file, without candidates."""
    places: tuple[str, ...]
    """Id of each number from 0; empty where the row cannot be used."""
    notes: tuple[str, ...] = ()
    stated: frozenset[str] = frozenset()
    """Ids whose row names a task; the task of any other follows from the outputs."""
    is_numbered: bool = False
    """True if the ids are the numbers, since the file has none."""


def read_prompts(path: Path) -> PromptFile:
    """Read a file of prompts, or a folder with one file a category.

    Args:
        path: ``.txt``, a prompt a line; ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet``,
            rows with a column of `PROMPT_COLUMNS` and, where there are any, id, category, task,
            the source image of an edit (``source_image``) or the image or video that a question is
            about. A JSON array may hold texts. Prompts of a folder, and of a file named after a
            style of HPDv2, have ids such as ``anime/00000``.

    Raises:
        DataError: The file cannot be read, or none of its rows can be used.
    """
    if is_folder(path):
        files = sorted(file for file in path.iterdir() if file.suffix in (".json", ".txt"))
        styles = [(f"{file.stem} {at}", row) for file in files for at, row in _of_style(file)]
        return collect(path, styles)
    if not is_file(path):
        raise DataError(f"{path} is not there; give a file of prompts")
    if path.suffix.lower() not in _SUFFIXES:
        check_is_text(path)
        raise DataError(f"{path}: prompts are read from {', '.join(_SUFFIXES)}")
    is_style = path.suffix == ".json" and path.stem in _STYLES
    return collect(path, _of_style(path) if is_style else rows_of_file(path))


def same_text(first: str, second: str) -> bool:
    """True if two prompts differ in spaces at most."""
    return first.split() == second.split()


def rows_of_file(path: Path) -> Iterator[_Entry]:
    """Iterate over place and row of each prompt of a file, a text as ``{"prompt": text}``."""
    suffix = path.suffix.lower()
    if suffix == ".txt":
        lines = read_text(path).rstrip("\n").split("\n")
        yield from ((f"line {n}", {"prompt": line.strip()}) for n, line in enumerate(lines, 1))
    elif suffix == ".json" and (texts := _texts(path)) is not None:
        yield from texts
    else:
        word = "row" if suffix in (".json", ".parquet") else "line"
        yield from ((f"{word} {raw.line}", raw.value) for raw in raw_rows(path))


def _texts(path: Path) -> list[_Entry] | None:
    """Read an array of texts, or an object with one a style; None for arrays of rows."""
    try:
        value = parse_json(read_text(path))
    except ValueError:
        return None
    styles: dict[str, Any] = value if isinstance(value, dict) else {"": value}
    if len(styles) == 1 and not styles.keys() & {*_STYLES}:
        styles = {"": next(iter(styles.values()))}
    if not all(isinstance(texts, list) for texts in styles.values()):
        return None
    if not any(isinstance(text, str) for texts in styles.values() for text in texts):
        return None
    return [
        (
            f"{style} row {n}".strip(),
            _in_style({"prompt": text}, style, n) if style else {"prompt": text},
        )
        for style, texts in styles.items()
        for n, text in enumerate(texts, 1)
    ]


def _of_style(path: Path) -> Iterator[_Entry]:
    for n, (at, row) in enumerate(rows_of_file(path), 1):
        yield at, row if isinstance(row, Failed) else _in_style(row, path.stem, n)


def _in_style(row: dict[str, Any], style: str, number: int) -> dict[str, Any]:
    return {"id": f"{style}/{number - 1:05}", "category": style, **row}


def collect(path: Path, entries: Iterable[_Entry]) -> PromptFile:
    """Collect the prompts of a file or a folder from its rows.

    Args:
        path: The file or the folder; paths in the rows begin there.
        entries: Place and values of each row.

    Raises:
        DataError: No row can be used.
    """
    prompts: dict[str, Example] = {}
    lines: dict[str, str] = {}
    places: list[str] = []
    stated: set[str] = set()
    problems: list[str] = []
    numbered = 0
    folder = path if is_folder(path) else path.parent
    for at, entry in entries:
        try:
            row = _columns(entry)
            name = _id(row, len(places))
            if name in prompts:
                raise DataError(f"duplicate id {name!r} (first on {lines[name]})")
            prompts[name] = _example(row, name, folder)
        except DataError as error:
            problems.append(f"{at}: {one_line(error, 200)}")
            places.append("")
            continue
        lines[name] = at
        places.append(name)
        numbered += _first(row, _ID_COLUMNS) is None
        if _first(row, ("task",)):
            stated.add(name)
    if not prompts:
        reason = problems[0] if problems else "it is empty"
        raise DataError(f"{path} holds no prompt that can be used: {reason}")
    notes = _notes(path.name, prompts, problems, len(places))
    is_numbered = numbered == len(prompts)
    return PromptFile(prompts, tuple(places), notes, frozenset(stated), is_numbered)


def _columns(entry: Mapping[str, Any] | Failed) -> dict[str, Any]:
    if isinstance(entry, Failed):
        raise DataError(entry.reason)
    return {str(name).strip().lower(): value for name, value in entry.items()}


def row_id(row: Mapping[str, Any]) -> str:
    """Id that a row names; empty without any."""
    name = id_text(_first(_columns(row), _ID_COLUMNS))
    return name if isinstance(name, str) else ""


def prompt_text(row: Mapping[str, Any]) -> str:
    """Prompt of a row; empty where it has none that can be used."""
    text = id_text(_first(_columns(row), PROMPT_COLUMNS))
    return text if isinstance(text, str) else ""


def _id(row: Mapping[str, Any], place: int) -> str:
    name = id_text(_first(row, _ID_COLUMNS, place))
    if not isinstance(name, str) or "\n" in name:
        raise DataError(f"an id is text of one line or a whole number, not {name!r}")
    return name


def _first(row: Mapping[str, Any], columns: Iterable[str], default: Any = None) -> Any:
    """Return the first value of the columns that is not empty."""
    values = (row.get(name) for name in columns)
    return next((value for value in values if value not in (None, "")), default)


def _example(row: Mapping[str, Any], name: str, folder: Path) -> Example:
    text = id_text(_first(row, PROMPT_COLUMNS))
    if not row.keys() & {*PROMPT_COLUMNS}:
        raise DataError(f"no column {', '.join(PROMPT_COLUMNS)} but {', '.join(row)}")
    if text is None or (isinstance(text, str) and not text.strip()):
        raise DataError("the prompt is empty")
    if not isinstance(text, str):
        raise DataError(f"a prompt is text, not a {type(text).__name__}")
    context, task = _context(row)
    made = {
        "id": name,
        "task": _first(row, ("task",), task.value),
        "prompt": text,
        "context": context,
        "criteria": row.get("criteria"),
        "tags": _tags(row),
    }
    try:
        raw = json.dumps(made, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"a value is of no kind that JSON has: {one_line(error)}") from error
    content = read_row(raw, folder).content
    if isinstance(content, Failed):
        raise DataError(content.reason)
    return content


def _context(row: Mapping[str, Any]) -> tuple[list[Any], Task]:
    """Media that a prompt is about, as parts of a row, and the task that they mean."""
    if parts := _first(row, ("context",)):
        if not isinstance(parts, list):
            raise DataError("context is a list of images and videos")
        is_video = any(isinstance(part, dict) and "video" in part for part in parts)
        return parts, Task.VIDEO_UNDERSTANDING if is_video else Task.IMAGE_UNDERSTANDING
    source = _first(row, _SOURCE_COLUMNS)
    # Rows of data have the name of their data set under this key.
    if source is None and _is_image_path(row.get("source")):
        source = row["source"]
    if source is not None:
        return _parts("image", source), Task.IMAGE_EDITING
    for kind, task in (("video", Task.VIDEO_UNDERSTANDING), ("image", Task.IMAGE_UNDERSTANDING)):
        if medium := _first(row, (kind,)):
            return _parts(kind, medium), task
    return [], Task.IMAGE_GENERATION


def _is_image_path(value: Any) -> bool:
    return isinstance(value, str) and PurePath(value).suffix.lower() in _IMAGES


def _parts(kind: str, value: Any) -> list[dict[str, str]]:
    paths = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not paths or not all(isinstance(path, str) for path in paths):
        raise DataError(
            f"column {kind} holds {type(paths[0] if paths else value).__name__}, not the path of a "
            "file; write media out of the table first"
        )
    return [{kind: path} for path in paths]


def _tags(row: Mapping[str, Any]) -> dict[str, Any]:
    given = _first(row, ("tags",), {})
    if not isinstance(given, dict):
        raise DataError("tags is an object of names and texts")
    tags = dict(given)
    tags |= {name: str(row[name]) for name in _TAGS if row.get(name)}
    category = _first(row, _CATEGORY_COLUMNS)
    values = cast("list[Any]", category) if isinstance(category, list) else [category]
    if names := [str(value).strip() for value in values if value not in (None, "")]:
        tags[CATEGORY] = CATEGORY_SEPARATOR.join(names)
    return tags


def _notes(
    name: str, prompts: Mapping[str, Example], problems: list[str], n_rows: int
) -> tuple[str, ...]:
    notes: list[str] = []
    if problems:
        more = len(problems) - _NAMED
        ending = f"; and {more} more" if more > 0 else ""
        listed = "; ".join(problems[:_NAMED])
        notes.append(
            f"{name}: {len(problems)} of {count_of(n_rows, 'row')} cannot be used: {listed}{ending}"
        )
    equal: dict[Any, list[str]] = {}
    for key, prompt in prompts.items():
        equal.setdefault((" ".join(prompt.prompt.split()), prompt.context), []).append(key)
    if repeated := [keys for keys in equal.values() if len(keys) > 1]:
        words = count_of(len(repeated), "prompt stands", "prompts stand")
        notes.append(
            f"{name}: {words} more than once, such as "
            f"{' and '.join(repeated[0][:_NAMED])}; each id is a prompt of its own"
        )
    return tuple(notes)
