"""Rows of a published file one by one, in constant memory; its suffix names the format.

Knows file formats and not what a row means. Text is UTF-8, and nothing is decoded by replacement.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from unified_reward.core.errors import DataError
from unified_reward.core.extensions import extra
from unified_reward.core.verdicts import Failed


_CHUNK_BYTES = 1 << 16
_BATCH_ROWS = 64


class Raw(NamedTuple):
    """One row of a file: its values by name, or why it cannot be read."""

    line: int
    """Counted from 1: the line in JSON lines, else the row. The header of a CSV file is row 1."""
    value: dict[str, Any] | Failed


def raw_rows(path: Path, at: str = "") -> Iterator[Raw]:
    """Read ``.json`` (an array, or JSON lines), ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet``.

    Where ``at`` is given, a ``.json`` file is one object, and the rows are its array of this name.

    A row that cannot be decoded is ``Failed`` and the others go on. A JSON array goes on only to
    the place where it is not JSON, since later rows cannot be separated. A file that was cut
    off gives its whole rows and then one ``Failed``; a Parquet file that was cut off has none.

    Raises:
        DataError: The file cannot be opened, or holds something else than rows.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise DataError(f"{path}: rows are read from {', '.join(_READERS)}, not {path.suffix!r}")
    try:
        yield from _array(path, f"{at}.item") if at and read is _json else read(path)
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
    with path.open("rb") as file:
        head = file.read(_CHUNK_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()
    first, _, rest = head.partition(b"\n")
    if head.startswith(b"["):
        yield from _array(path, "item")
    elif head.startswith(b"{") and not (first.strip() == b"{" and rest):
        yield from _lines(path)
    else:
        raise DataError(f"{path} holds neither an array nor an object a line")


def _begin(file: BinaryIO) -> None:
    if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        file.seek(0)


def _array(path: Path, prefix: str) -> Iterator[Raw]:
    with extra("bench"):
        import ijson

    # Pushing chunks, unlike ijson.items, also gives the whole rows before an error.
    found = ijson.sendable_list()
    parser = ijson.items_coro(found, prefix, use_float=True)
    row, chunk, broken = 0, b"[", None
    with path.open("rb") as file:
        _begin(file)
        while chunk and not broken:
            chunk = file.read(_CHUNK_BYTES)
            try:
                if chunk:
                    parser.send(chunk)
                else:
                    parser.close()
            except (ijson.JSONError, UnicodeDecodeError) as error:
                what = "UTF-8" if "utf" in str(error).lower() else "JSON"
                n = row + len(found) + 1
                message = f"row {n} is not {what}, and no row after it can be read"
                broken = _failed(message) if chunk else _cut_off(n)
            for value in found:
                row += 1
                yield Raw(row, _row(value))
            found.clear()
    if broken:
        yield Raw(row + 1, broken)


def _lines(path: Path) -> Iterator[Raw]:
    with path.open("rb") as file:
        _begin(file)
        for line, raw in enumerate(file, 1):
            if raw.strip():
                yield Raw(line, _decoded(raw, line))


def _decoded(raw: bytes, line: int) -> dict[str, Any] | Failed:
    try:
        value = json.loads(raw.decode(), parse_constant=_refuse)
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError as error:
        return _cut_off(line) if "end of data" in str(error) else _failed("the row is not UTF-8")
    except (ValueError, RecursionError) as error:
        return _failed(f"no JSON: {error}") if raw.endswith(b"\n") else _cut_off(line)
    return _row(value)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _csv(path: Path) -> Iterator[Raw]:
    yield from _table(path, ",")


def _tsv(path: Path) -> Iterator[Raw]:
    yield from _table(path, "\t")


def _table(path: Path, delimiter: str) -> Iterator[Raw]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        table = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(table, [])
        except csv.Error as error:
            raise DataError(f"{path}: the header cannot be read: {error}") from error
        if not header or len(set(header)) < len(header) or not _is_utf8(header):
            raise DataError(f"{path} begins with a row of different column names in UTF-8")
        for row in count(2):
            try:
                cells = next(table)
            except StopIteration:
                return
            except csv.Error as error:
                ends = "end of data" in str(error)
                yield Raw(row, _cut_off(row) if ends else _failed(f"no CSV: {error}"))
                continue
            if cells:
                yield Raw(row, _cells(cells, header))


def _is_utf8(cells: list[str]) -> bool:
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return False
    return True


def _cells(cells: list[str], header: list[str]) -> dict[str, Any] | Failed:
    if not _is_utf8(cells):
        return _failed("the row is not UTF-8")
    if len(cells) != len(header):
        return _failed(f"{len(cells)} columns where the header names {len(header)}")
    return dict(zip(header, cells, strict=True))


def _parquet(path: Path) -> Iterator[Raw]:
    with extra("bench"):
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

    try:
        table = ParquetFile(path)
    except ArrowException as error:
        raise DataError(f"{path} is not a complete Parquet file: {error}") from error
    row = 0
    with table:
        batches = table.iter_batches(batch_size=_BATCH_ROWS)
        while True:
            try:
                batch = next(batches, None)
            except (ArrowException, OSError) as error:
                yield Raw(row + 1, _failed(f"no row from here on can be read: {error}"))
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
