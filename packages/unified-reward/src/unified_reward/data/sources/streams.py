"""Rows of a published file one by one, in constant memory; its suffix names the format.

Knows file formats and not what a row means. Text is UTF-8, and nothing is decoded by replacement.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from unified_reward.core.errors import DataError, one_line
from unified_reward.core.extensions import extra
from unified_reward.core.verdicts import Failed
from unified_reward.io.text import check_is_text, open_rows, parse_json, read_lines, read_table


_CHUNK_BYTES = 1 << 16
_BATCH_ROWS = 64
_SIGN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{},]', re.DOTALL)
"""A whole text, or the begin of one that ends in a later chunk, or another sign."""
_IN_TEXT = re.compile(rb'"|\\.?', re.DOTALL)


class Raw(NamedTuple):
    """One row of a file: its values by name, or why it cannot be read."""

    line: int
    """Counted from 1: the line at which it begins, in JSON lines and CSV, else the row."""
    value: dict[str, Any] | Failed


def raw_rows(path: Path, at: str = "") -> Iterator[Raw]:
    """Read ``.json`` (an array, or JSON lines), ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet``.

    Where ``at`` is given, a ``.json`` file is one object, and the rows are its array of this name.

    A row that cannot be decoded is ``Failed`` and the others go on. A JSON array goes on only to
    the place where it is not JSON, and a table to a quote that is not closed, since later rows
    cannot be separated. A file that was cut off gives its whole rows and then one ``Failed``; a
    Parquet file that was cut off has none.

    Raises:
        DataError: The file cannot be opened, or holds something else than rows.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        check_is_text(path)
        raise DataError(f"{path}: rows are read from {', '.join(_READERS)}, not {path.suffix!r}")
    try:
        yield from _array(path, at) if at and read is _json else read(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _failed(message: str) -> Failed:
    return Failed(message, DataError(message))


def _cut_off(row: int) -> Failed:
    return _failed(f"the file ends inside row {row}")


def _row(value: Any) -> dict[str, Any] | Failed:
    if isinstance(value, dict):
        return value
    return _failed(f"a row is an object with names, not a {type(value).__name__}")


def _json(path: Path) -> Iterator[Raw]:
    with open_rows(path) as file:
        head = file.read(_CHUNK_BYTES).lstrip()
    first, _, rest = head.partition(b"\n")
    if head.startswith(b"["):
        yield from _array(path)
    elif head.startswith(b"{") and not (first.strip() == b"{" and rest):
        yield from _lines(path)
    else:
        raise DataError(f"{path} holds neither an array nor an object a line")


def _array(path: Path, at: str = "") -> Iterator[Raw]:
    """Iterate over the elements of an array, or of that under the key ``at`` of an object."""
    for n, (raw, sign) in enumerate(_elements(path, at), 1):
        if n == 1 and sign == b"]" and not raw.strip():
            return
        try:
            yield Raw(n, _row(parse_json(raw)))
        except ValueError as error:
            if not sign:
                yield Raw(n, _cut_off(n))
            elif isinstance(error.__cause__, json.JSONDecodeError):
                yield Raw(n, _failed(f"row {n} is not JSON, and no row after it can be read"))
                return
            else:
                yield Raw(n, _failed(str(error)))
        else:
            if not sign:
                yield Raw(n + 1, _cut_off(n + 1))


def _elements(path: Path, at: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield each element of an array and the sign behind it; no sign where the file ends."""
    depth, is_found = 0, False
    outer = 2 if at else 1
    part = bytearray()
    with open_rows(path) as file:
        signs = _signs(file)
        for before, sign in signs:
            part += before
            if is_found and depth == outer and sign not in (b"[", b"{"):
                yield bytes(part), sign
                part.clear()
                if sign != b",":
                    break
                continue
            depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(sign, 0)
            if not is_found and sign == b"[" and depth == outer and _is_key(part, at):
                is_found = True
                part.clear()
            elif not is_found and depth <= 1 and sign in (b"{", b","):
                part.clear()
            else:
                part += sign
        else:
            if is_found or depth:
                yield bytes(part), b""
            else:
                raise DataError(f"{path} holds no array under the key {at!r}")
        if not at and any(before.strip() or sign for before, sign in signs):
            yield b"", b"]"  # something stands behind the array


def _signs(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield each comma and bracket outside of texts, and the bytes before it; last, no sign."""
    part, is_text, skip = bytearray(), False, 0
    while chunk := file.read(_CHUNK_BYTES):
        begin, place, skip = 0, skip, 0
        while match := (_IN_TEXT if is_text else _SIGN).search(chunk, place):
            place = match.end()
            if match[0] == b'"':
                is_text = not is_text
            elif is_text:
                skip = 2 - len(match[0])  # what is escaped begins the next chunk
            elif len(match[0]) == 1:
                yield bytes(part + chunk[begin : match.start()]), match[0]
                part.clear()
                begin = place
        part += chunk[begin:]
    yield bytes(part), b""


def _is_key(before: bytearray, key: str) -> bool:
    return not key or before.split() == [*f'"{key}":'.encode().split()]


def _lines(path: Path) -> Iterator[Raw]:
    for line, _, raw in read_lines(path):
        try:
            yield Raw(line, _row(parse_json(raw)))
        except ValueError as error:
            is_last = not raw.endswith((b"\n", b"\r"))
            is_syntax = isinstance(error.__cause__, json.JSONDecodeError)
            is_cut = is_last and (is_syntax or "end of data" in str(error))
            yield Raw(line, _cut_off(line) if is_cut else _failed(str(error)))


def _csv(path: Path) -> Iterator[Raw]:
    yield from _table(path, ",")


def _tsv(path: Path) -> Iterator[Raw]:
    yield from _table(path, "\t")


def _table(path: Path, delimiter: str) -> Iterator[Raw]:
    for line, cells in read_table(path, delimiter):
        yield Raw(line, _failed(cells) if isinstance(cells, str) else cells)


def _parquet(path: Path) -> Iterator[Raw]:
    with extra("bench"):
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

    try:
        table = ParquetFile(path)
    except (ArrowException, ValueError) as error:
        raise DataError(f"{path} is not a complete Parquet file: {one_line(error)}") from error
    row = 0
    with table:
        batches = table.iter_batches(batch_size=_BATCH_ROWS)
        while True:
            try:
                batch = next(batches, None)
            except (ArrowException, ValueError, OSError) as error:
                yield Raw(row + 1, _failed(f"no row from here on can be read: {one_line(error)}"))
                return
            if batch is None:
                return
            for i in range(batch.num_rows):
                row += 1
                try:
                    yield Raw(row, batch.slice(i, 1).to_pylist()[0])
                except UnicodeDecodeError:
                    yield Raw(row, _failed("the row is not UTF-8"))


_READERS: dict[str, Callable[[Path], Iterator[Raw]]] = {
    ".json": _json,
    ".jsonl": _lines,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
