r"""Text files and JSON: the only place that opens text for reading.

Text is UTF-8. A byte order mark is skipped; one of UTF-16 or UTF-32 says how a whole text or a
table is decoded, and files of rows, whose lines are found by their bytes, are then refused. A line
ends at ``\n``, ``\r\n`` or ``\r`` and at no other character, since a string may hold all others.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from unified_reward.core.errors import DataError
from unified_reward.io.file_kinds import N_BYTES, refusal


_UTF8 = "utf-8"
_MARKS = {
    codecs.BOM_UTF8: _UTF8,
    codecs.BOM_UTF32_LE: "utf-32-le",  # begins like that of UTF-16
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_MARK = "\ufeff"
_BLANK = b" \t\r\n\v\f" + codecs.BOM_UTF8
"""Bytes of lines without a row; files that were joined have marks inside."""
_CELL = 2**31 - 1
_field_limit = threading.Lock()
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_DEEPEST = 100
"""Arrays and objects inside each other that are read; all code behind may then recurse."""
_LONGEST = 300
"""Digits of a whole number, which is still finite as a float."""


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], str]]:
    """Open a file behind its byte order mark, and find its encoding."""
    if "\0" in str(path):
        raise DataError(f"{str(path)!r} cannot be read: a path has no NUL character")
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise DataError(f"{path} is a pipe or a device, and texts are read from files")
        with path.open("rb") as file:
            start = file.read(N_BYTES)
            if reason := refusal(path, start):
                raise DataError(reason)
            mark = next((mark for mark in _MARKS if start.startswith(mark)), b"")
            file.seek(len(mark) * (1 + start.startswith(mark * 2)))  # marks of two programs
            yield file, _MARKS.get(mark, _UTF8)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def check_is_text(path: Path) -> None:
    """Refuse a file that is no text by its first bytes, such as an image or an archive.

    Raises:
        DataError: It is none, or cannot be opened; says what it is, and what takes it.
    """
    with _opened(path):
        pass


def read_text(path: Path) -> str:
    r"""Read a whole text, its lines ending with ``\n``.

    Raises:
        DataError: The file cannot be opened, or is no text in the encoding of its mark, or without
            one in UTF-8; names the line.
    """
    with _opened(path) as (file, encoding):
        raw = file.read()
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(raw[: error.start].decode(encoding, "replace").split("\n"))
        raise DataError(
            f"{path} cannot be read: line {line} is not {encoding.upper()}: {error.reason}; "
            "save it as UTF-8"
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip(_MARK)
    before, nul, _ = text.partition("\0")
    if nul:
        raise DataError(
            f"{path} cannot be read: line {len(before.split(chr(10)))} holds a NUL, as UTF-16 "
            "without a byte order mark does; save it as UTF-8"
        )
    return text


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that is one object of JSON.

    Raises:
        DataError: The file cannot be opened, `parse_json` refuses it, or it is another value.
    """
    try:
        value = parse_json(read_text(path))
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, not an object")
    return cast("dict[str, Any]", value)


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Iterate over number (from 1) and object of every line that is not blank.

    Raises:
        DataError: As in `read_lines`, or a line is no object; names it.
    """
    for number, _, raw in read_lines(path):
        try:
            row = parse_json(raw)
        except ValueError as error:
            raise DataError(f"{path} line {number}: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path} line {number} is not an object")
        yield number, cast("dict[str, Any]", row)


@contextmanager
def open_rows(path: Path) -> Iterator[IO[bytes]]:
    """Open a file of JSON behind its byte order mark, to be read in pieces.

    Raises:
        DataError: The file cannot be opened, or is no text, or not in UTF-8.
    """
    with _opened(path) as (file, encoding):
        if encoding != _UTF8:
            raise DataError(
                f"{path} is {encoding.upper()}, and rows are read from UTF-8; convert it first: "
                f"iconv -f {encoding.upper()} -t UTF-8 {path}"
            )
        yield file


@dataclass
class LinePlace:
    """Place between two lines of a file, and all that stands before it."""

    n_lines: int = 0
    n_bytes: int = 0
    """Bytes of the lines, without a byte order mark at the begin of the file."""
    digest: Any = field(default_factory=hashlib.sha256)
    """SHA-256 of these bytes."""

    def copy(self) -> LinePlace:
        """Return the place, which then stays where it is."""
        return LinePlace(self.n_lines, self.n_bytes, self.digest.copy())


def read_lines(path: Path, place: LinePlace | None = None) -> Iterator[tuple[int, int, bytes]]:
    """Iterate over number (from 1), first byte and content of every line that is not blank.

    Args:
        path: The file.
        place: Place to begin at; it moves behind each line before that is yielded.

    Raises:
        DataError: As in `open_rows`.
    """
    with open_rows(path) as file:
        line, start = 0, file.tell()
        if place is not None:
            line, start = place.n_lines, start + place.n_bytes
            file.seek(start)
        for lines in file:
            for raw in lines.splitlines(keepends=True):
                line += 1
                if place is not None:
                    place.n_lines, place.n_bytes = line, place.n_bytes + len(raw)
                    place.digest.update(raw)
                if raw.strip(_BLANK):
                    yield line, start, raw
                start += len(raw)


def read_line(path: Path, start: int) -> bytes:
    """Read the line that begins at a byte, as `read_lines` numbers them.

    Raises:
        DataError: The file cannot be opened.
    """
    with open_rows(path) as file:
        file.seek(start)
        return file.readline().splitlines()[0]


def parse_json(raw: bytes | str) -> Any:
    """Parse a value of JSON that any other program reads alike, and that can be written again.

    Raises:
        ValueError: It is no JSON, not UTF-8 or nested too deeply; a key stands twice in an object;
            a number is not finite, or would not be as a float; or a text holds half a character.
    """
    try:
        text = (raw.decode() if isinstance(raw, bytes) else raw).lstrip(_MARK)
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refuse,
            parse_float=_float,
            parse_int=_int,
        )
        if text.count("[") + text.count("{") > _DEEPEST:
            _check_depth(value)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start + 1}") from error
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.end]
        raise ValueError(f"Invalid JSON: a text holds the half character {half!a}") from error
    except RecursionError as error:
        raise ValueError("Invalid JSON: nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"Invalid JSON: {error}") from error
    return value


def to_float(given: Any) -> float:
    """Read a number that other programs read alike: no boolean, no ``1_000``, ASCII digits alone.

    Raises:
        ValueError: It is none.
    """
    is_odd = isinstance(given, str) and ("_" in given or not given.isascii())
    try:
        return float("odd" if is_odd or isinstance(given, bool) else given)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{repr(given)[:40]} is not a number") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return result


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number; null is right")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:40]} is not a finite number")
    return value


def _int(digits: str) -> int:
    if len(digits) > _LONGEST:
        raise ValueError(f"a number of {len(digits)} digits is too large")
    return int(digits)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        inner = [node.values() if isinstance(node, dict) else node for node in level]
        level = [
            cast("Any", child)
            for children in inner
            for child in cast("Any", children)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise RecursionError


class _Lines:
    """Lines of a table, with the number of the last and the quotes in those of one row."""

    def __init__(self, file: TextIOWrapper) -> None:
        self._file = file
        self.number = 0
        self.n_quotes = 0
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.last = next(self._file)
        self.number += 1
        self.n_quotes += self.last.count('"')
        return self.last


def read_table(path: Path, delimiter: str = ",") -> Iterator[tuple[int, dict[str, str] | str]]:
    """Iterate over the rows of a CSV file with a header, in constant memory.

    A cell may have any length and hold any character, line ends and quotes included.

    Args:
        path: The file.
        delimiter: Character between cells.

    Yields:
        The line (from 1) at which a row begins, and its cells by column, or the reason why it
        cannot be read. Lines inside a cell are never rows: behind a quote that stands where it
        must not, the next row begins where quotes are even in number.

    Raises:
        DataError: The file cannot be opened, or does not begin with different column names.
    """
    with _opened(path) as (file, encoding):
        text = TextIOWrapper(cast("Any", file), encoding, errors="surrogateescape", newline="")
        lines = _Lines(text)
        table = csv.reader(lines, delimiter=delimiter, strict=True)
        header = _header(path, table, lines, delimiter)
        while True:
            lines.n_quotes, begin = 0, lines.number + 1
            try:
                cells = _next(table)
            except StopIteration:
                return
            except csv.Error as error:
                yield begin, _torn(lines, begin, error)
                continue
            if cells:
                yield begin, _named(cells, header)


def _next(table: Iterator[list[str]]) -> list[str]:
    """Take the next row with cells of any length; the limit is one of the whole process."""
    with _field_limit:
        limit = csv.field_size_limit(_CELL)
        try:
            return next(table)
        finally:
            csv.field_size_limit(limit)


def _header(path: Path, table: Iterator[list[str]], lines: _Lines, delimiter: str) -> list[str]:
    problem = "it is empty"
    names: list[str] = []
    try:
        while not names:
            names = [name.strip().lstrip(_MARK) for name in _next(table)]
    except StopIteration:
        pass
    except csv.Error as error:
        problem = str(error)
    others = [other for other in ";\t," if other != delimiter and other in lines.last]
    if len(names) < 2 and others:
        raise DataError(
            f"{path}: its cells are separated by {others[0]!r}; save it with {delimiter!r}"
        )
    if "\0" in lines.last:
        problem = "it holds a NUL, as UTF-16 without a byte order mark does"
    elif names and len(set(names)) < len(names):
        problem = f"{next(name for name in names if names.count(name) > 1)!r} stands twice"
    elif names and not _is_text(names):
        problem = "it is not UTF-8"
    elif names:
        return names
    raise DataError(f"{path} does not begin with a row of different column names: {problem}")


def _torn(lines: _Lines, begin: int, error: csv.Error) -> str:
    """Skip to the end of a row whose quotes are wrong, and give the reason."""
    while lines.n_quotes % 2 and next(lines, None) is not None:
        pass
    if lines.n_quotes % 2:
        return (
            f"the file ends inside row {begin}: a quote is not closed, and no row after it is read"
        )
    return f"no CSV in lines {begin} to {lines.number}: {error}"


def _named(cells: list[str], header: list[str]) -> dict[str, str] | str:
    if not _is_text(cells):
        return "the row is not UTF-8"
    if len(cells) != len(header):
        return f"{len(cells)} columns where the header names {len(header)}"
    return dict(zip(header, cells, strict=True))


def _is_text(cells: list[str]) -> bool:
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return False
    return True
