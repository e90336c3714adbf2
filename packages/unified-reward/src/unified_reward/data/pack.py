"""Files of records: JSONL beside its media, and Parquet or tar shards that carry them.

A packed row is a record row whose media are named ``0.png``, ``1.mp4`` and so on; their bytes
are stored beside it under these names. Knows no task and decodes nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import BytesIO
from itertools import count, groupby
from pathlib import Path
from typing import Any, NamedTuple

from unified_reward.core.errors import ConfigError, DataError, MediaError, one_line
from unified_reward.core.extensions import extra
from unified_reward.core.paths import is_file, is_folder
from unified_reward.core.samples import Example, Image, Video
from unified_reward.core.verdicts import Failed, Scale
from unified_reward.data.sources import read_source
from unified_reward.io.atomic import replacing, replacing_folder, write_bytes
from unified_reward.io.rows import (
    Ids,
    Row,
    check_target,
    example_row,
    read_examples,
    read_row,
    unusable,
    written_row,
)
from unified_reward.io.text import parse_json


RECORDS = "records"
"""Source name of our own files."""
GROUP_BYTES = 32 * 1024 * 1024
"""Media in a row group of Parquet, about."""
SHARD_BYTES = 1024**3
"""Media in a shard of a folder, about."""

_TEXTS = ("id", "task", "prompt", "criteria", "source")
_NESTED = ("candidates", "context", "target", "messages")
_OPTIONAL = (
    *("raters", "tags", "status", "chosen", "rejected", "chosen_score", "rejected_score"),
    *("reason", "judge_calls", "judge", "family", "strategy", "policy", "seed", "duplicates"),
    "comparisons",
)
"""JSON texts too; null where a row lacks the key, and files written before have no such column."""
_SUFFIXES = (
    (rb"\x89PNG", ".png"),
    (rb"\xff\xd8\xff", ".jpg"),
    (rb"GIF8", ".gif"),
    (rb"RIFF....WEBP", ".webp"),
    (rb"BM", ".bmp"),
    (rb"....ftyp", ".mp4"),
    (rb"\x1aE\xdf\xa3", ".webm"),
)

_Write = Callable[[Row, Example], None]
"""Takes a row and its content."""


class _Packed(NamedTuple):
    row: bytes
    """The record row in JSON."""
    media: Mapping[str, bytes]


def rows_of(
    path: Path,
    source: str = RECORDS,
    media: Path | None = None,
    scale: Scale | None = None,
) -> Iterator[Row]:
    """Read the rows of a file one by one: of our own kind, or as a source was published.

    Args:
        path: For ``records`` a JSONL, Parquet or tar file, or a folder of tar shards.
        source: ``records``, or a name of ``data.sources.SOURCES``.
        media: Where a published source's relative media paths start; default beside the file.
        scale: Scale of a user's own ratings.

    Raises:
        ConfigError: No such source, or ``media`` or ``scale`` for records, which know theirs.
        DataError: The file cannot be opened.
    """
    if source != RECORDS:
        return map(_consistent, read_source(path, source, media=media, scale=scale))
    if media is not None or scale is not None:
        raise ConfigError("scale and media are for published sources; records have their own")
    if path.suffix == ".parquet":
        return _restored(_parquet_rows(path))
    if path.suffix == ".tar" or is_folder(path):
        return _restored(_shard_rows(path))
    return read_examples(path)


def _consistent(row: Row) -> Row:
    """Row that our own reader would take too: one that contradicts itself cannot be used."""
    content = row.content
    try:
        if isinstance(content, Example) and content.candidates:
            check_target(content.target, content.candidates)
    except DataError as error:
        return replace(row, content=Failed.from_error(error))
    return row


def convert(rows: Iterable[Row], out: Path, seen: Callable[[Row], None]) -> int:
    """Write rows as a file of records, of the kind its suffix names.

    ``.jsonl`` leaves media files where they are and writes media in memory to ``media/`` beside
    it; ``.parquet``, ``.tar`` (a WebDataset) and a folder without suffix (shards) carry all bytes.
    ``out`` is replaced when everything is written, and untouched if anything goes wrong.

    Args:
        rows: What to write; rows in memory at once are one, or one row group.
        out: The file, or a new folder.
        seen: Called with every row once; content that could not be written has become ``Failed``.

    Returns:
        How many rows were written.

    Raises:
        ConfigError: Another suffix, or a folder that exists.
        DataError: Nothing could be written, or not there.
    """
    if out.suffix not in _WRITERS:
        raise ConfigError(f"{out} is not .jsonl, .parquet, .tar or a folder without a suffix")
    if is_folder(out):
        raise ConfigError(f"{out} is a folder already; give a new name")
    written = 0
    with _WRITERS[out.suffix](out) as write:
        for row in rows:
            content = row.content
            if not isinstance(content, Failed):
                try:
                    write(row, content)
                    written += 1
                except (DataError, MediaError) as error:
                    content = Failed.from_error(error)
            seen(replace(row, content=content))
        if not written:
            raise DataError(f"no row can be used, so {out} is not written")
    return written


def with_media(content: Example, change: Callable[[Image | Video], Path | bytes]) -> Example:
    """Replace every image, frame and video file by the path or bytes that ``change`` returns."""

    def changed(part: Any) -> Any:
        if isinstance(part, str):
            return part
        if isinstance(part, tuple):
            return tuple(map(changed, part))
        if isinstance(part.source, tuple):
            return replace(part, source=changed(part.source))
        return replace(part, source=change(part))

    context, candidates = changed(content.context), changed(content.candidates)
    return replace(content, context=context, candidates=candidates)


def record_line(content: Example, folder: Path) -> bytes:
    """Write an example as a line of JSON of a file in ``folder``; bytes become ``media/<sha>.*``.

    Raises:
        DataError: A text that no file can hold.
        MediaError: A medium that is neither a file nor its bytes.
    """
    return _line(example_row(_on_disk(content, folder), folder))


def _on_disk(content: Example, folder: Path) -> Example:
    def stored(medium: Image | Video) -> Path:
        if isinstance(medium.source, str | Path):
            return Path(medium.source)
        content = _bytes(medium)
        name = f"{hashlib.sha256(content).hexdigest()[:32]}{_suffix(medium, content)}"
        path = folder / "media" / name
        if not path.exists():
            write_bytes(path, content)
        return path

    if all(isinstance(medium.source, str | Path) for medium in content.media):
        return content
    return with_media(content, stored)


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.end]
        raise DataError(f"no file can hold the half character {half!a} of a text") from error
    except ValueError as error:
        raise DataError("NaN and Infinity are no numbers of JSON; null is right") from error


def _bytes(medium: Image | Video) -> bytes:
    source = medium.source
    if isinstance(source, bytes):
        return source
    if not isinstance(source, str | Path):
        raise MediaError(f"a medium is a file or its bytes, not a {type(source).__name__}")
    path = Path(source)
    try:
        if path.exists() and not is_file(path):  # a pipe would be waited for
            raise MediaError(f"{source}: cannot be opened: not a regular file")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise MediaError(f"{source}: cannot be opened: {reason}") from error


def _suffix(medium: Image | Video, content: bytes) -> str:
    if isinstance(medium.source, str | Path) and Path(medium.source).suffix:
        return Path(medium.source).suffix.lower()
    found = (suffix for start, suffix in _SUFFIXES if re.match(start, content, re.DOTALL))
    return next(found, ".bin")


def _packed(row: Row, content: Example) -> tuple[dict[str, Any], dict[str, bytes]]:
    media: dict[str, bytes] = {}

    def embedded(medium: Image | Video) -> Path:
        content = _bytes(medium)
        name = f"{len(media)}{_suffix(medium, content)}"
        media[name] = content
        return Path(name)

    return written_row(replace(row, content=with_media(content, embedded)), Path()), media


def _restored(packed: Iterable[_Packed | Row]) -> Iterator[Row]:
    ids = Ids("row")
    for n, packed_row in enumerate(packed, 1):
        yield ids.checked(packed_row if isinstance(packed_row, Row) else _unpacked(packed_row), n)


def _unpacked(packed: _Packed) -> Row:
    row = read_row(packed.row, Path())
    if isinstance(row.content, Failed):
        return row
    try:
        content = with_media(row.content, lambda medium: packed.media[str(medium.source)])
    except KeyError as error:
        return unusable(f"medium {error} is not packed with its row")
    return replace(row, content=content)


@contextmanager
def _jsonl(out: Path) -> Iterator[_Write]:
    with replacing(out) as file:

        def write(row: Row, content: Example) -> None:
            row = replace(row, content=_on_disk(content, out.parent))
            file.write(_line(written_row(row, out.parent)))

        yield write


@contextmanager
def _parquet(out: Path) -> Iterator[_Write]:
    with extra("bench"):
        import pyarrow as pa
        import pyarrow.parquet as pq

    medium = pa.struct({"path": pa.string(), "bytes": pa.large_binary()})
    columns = dict.fromkeys((*_TEXTS, *_NESTED, *_OPTIONAL), pa.string())
    schema = pa.schema(columns | {"schema": pa.int32(), "media": pa.list_(medium)})
    group: list[dict[str, Any]] = []
    size = 0

    def write(row: Row, content: Example) -> None:
        nonlocal size
        cells, media = _packed(row, content)
        _line(cells)
        cells |= {name: json.dumps(cells.get(name, []), ensure_ascii=False) for name in _NESTED}
        given = (name for name in _OPTIONAL if cells.get(name) is not None)
        cells |= {name: json.dumps(cells[name], ensure_ascii=False) for name in given}
        cells["media"] = [{"path": name, "bytes": content} for name, content in media.items()]
        group.append(cells)
        size += sum(map(len, media.values())) + 4096
        if size > GROUP_BYTES:
            flush()

    def flush() -> None:
        nonlocal size
        writer.write_table(pa.Table.from_pylist(group, schema=schema))
        group.clear()
        size = 0

    with replacing(out) as file, pq.ParquetWriter(file, schema) as writer:
        yield write
        if group:
            flush()


class _Shard:
    """A tar as WebDataset lays it out: ``<row>.json``, ``<row>.0.png``."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self.size = 0
        self._tar = tar

    def add(self, n: int, row: Mapping[str, Any], media: Mapping[str, bytes]) -> None:
        for name, content in {"json": _line(row), **media}.items():
            member = tarfile.TarInfo(f"{n:09d}.{name}")
            member.size = len(content)
            self._tar.addfile(member, BytesIO(content))
            self.size += len(content)


@contextmanager
def _tar(out: Path) -> Iterator[_Write]:
    rows = count()
    with replacing(out) as file, tarfile.open(fileobj=file, mode="w") as tar:
        shard = _Shard(tar)

        def write(row: Row, content: Example) -> None:
            packed = _packed(row, content)
            shard.add(next(rows), *packed)

        yield write


@contextmanager
def _tar_folder(out: Path) -> Iterator[_Write]:
    numbers, rows = count(), count()
    with replacing_folder(out) as folder, ExitStack() as stack:

        def next_shard() -> _Shard:
            stack.close()
            path = folder / f"{next(numbers):06d}.tar"
            return _Shard(stack.enter_context(tarfile.open(path, "w")))

        shard = next_shard()

        def write(row: Row, content: Example) -> None:
            nonlocal shard
            packed = _packed(row, content)
            if shard.size > SHARD_BYTES:
                shard = next_shard()
            shard.add(next(rows), *packed)

        yield write


_WRITERS = {".jsonl": _jsonl, ".parquet": _parquet, ".tar": _tar, "": _tar_folder}


def _parquet_rows(path: Path) -> Iterator[_Packed | Row]:
    with extra("bench"):
        import pyarrow as pa
        import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {one_line(error)}") from error
    missing = {*_TEXTS, *_NESTED, "schema", "media"} - set(file.schema_arrow.names)
    if missing:
        raise DataError(
            f"{path} has no columns {', '.join(sorted(missing))}, so it is not a packed file of "
            "records; if it was published like that, name its source"
        )
    try:
        # A batch of few rows, because each carries its media.
        for batch in file.iter_batches(batch_size=8):
            for i in range(batch.num_rows):
                yield _packed_row(batch.slice(i, 1))
    except (OSError, pa.ArrowException) as error:
        yield unusable(f"{path.name} breaks off here: {one_line(error)}")


def _packed_row(batch: Any) -> _Packed | Row:
    try:
        (value,) = batch.to_pylist()
        media = {medium["path"]: medium["bytes"] for medium in value.pop("media") or []}
        nested = {name: parse_json(value.pop(name)) for name in _NESTED}
        optional = {name: value.pop(name, None) for name in _OPTIONAL}
        nested |= {name: parse_json(text) for name, text in optional.items() if text is not None}
        return _Packed(json.dumps(value | nested).encode(), media)
    except UnicodeDecodeError:
        return unusable("the row is not UTF-8")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return unusable(f"its columns are not of the types that were packed: {one_line(error)}")


def _shard_rows(path: Path) -> Iterator[_Packed | Row]:
    shards = sorted(path.glob("*.tar")) if is_folder(path) else [path]
    if not shards:
        raise DataError(f"{path} holds no .tar files")
    for shard in shards:
        try:
            tar = tarfile.open(shard, "r|")  # noqa: SIM115
        except (OSError, ValueError, tarfile.TarError) as error:
            raise DataError(f"{shard} cannot be read as tar: {one_line(error)}") from error
        with tar:
            yield from _tar_rows(tar, shard)


def _tar_rows(tar: tarfile.TarFile, shard: Path) -> Iterator[_Packed | Row]:
    def content(member: tarfile.TarInfo) -> bytes:
        file = tar.extractfile(member)
        return file.read() if file else b""

    files = (member for member in tar if member.isfile())
    try:
        for key, members in groupby(files, lambda member: _key(member.name)):
            parts = {member.name[len(key) + 1 :]: content(member) for member in members}
            row = parts.pop("json", None)
            yield _Packed(row, parts) if row else unusable(f"{shard.name}: no {key}.json")
        with shard.open("rb") as file:
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                # tarfile takes a header that is cut or broken for the end.
                raise tarfile.ReadError("no end of the archive")
    except (OSError, ValueError, tarfile.TarError, EOFError) as error:
        yield unusable(f"{shard.name} breaks off here: {one_line(error)}")


def _key(name: str) -> str:
    """Return the name before its first dot, by which WebDataset groups the files of a row."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]
