"""Files of records: JSONL beside its media, and Parquet or tar shards that carry them.

A packed row is a record row whose media are named ``0.png``, ``1.mp4`` and so on; under these
names their bytes stand beside it. Knows no task and decodes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import BytesIO
from itertools import count, groupby
from pathlib import Path
from typing import Any, NamedTuple

from unified_reward.core.errors import ConfigError, DataError, MediaError
from unified_reward.core.extensions import extra
from unified_reward.core.samples import Example, Image, Video
from unified_reward.core.verdicts import Failed, Scale
from unified_reward.data.sources import read_source
from unified_reward.io.rows import Row, example_row, parse_row, read_examples


RECORDS = "records"
"""Source name of our own files."""
GROUP_BYTES = 32 * 1024 * 1024
"""Media in a row group of Parquet, about."""
SHARD_BYTES = 1024**3
"""Media in a shard of a folder, about."""

_TEXTS = ("id", "task", "prompt", "criteria", "source")
_NESTED = ("candidates", "context", "target", "messages")
_OPTIONAL = ("raters", "tags", "status", "chosen", "rejected", "chosen_score", "rejected_score")
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

_Write = Callable[[Example], None]


class _Packed(NamedTuple):
    row: bytes
    """The record row in JSON."""
    media: Mapping[str, bytes]


def rows_of(
    path: Path, source: str = RECORDS, media: Path | None = None, scale: Scale | None = None
) -> Iterator[Row]:
    """Rows of a file, one by one: of our own kind, or as a source was published.

    Args:
        path: For ``records`` a JSONL, Parquet or tar file, or a folder of tar shards.
        source: ``records``, or a name of ``data.sources.SOURCES``.
        media: Where a published source's relative media paths start; default beside the file.
        scale: Of a user's own ratings.

    Raises:
        ConfigError: No such source, or ``media`` or ``scale`` for records, which know theirs.
        DataError: The file cannot be opened.
    """
    if source != RECORDS:
        return read_source(path, source, media=media, scale=scale)
    if media is not None or scale is not None:
        raise ConfigError("records know their scales, and their paths start at their file")
    if path.suffix == ".parquet":
        return _restored(_parquet_rows(path))
    if path.suffix == ".tar" or path.is_dir():
        return _restored(_shard_rows(path))
    return read_examples(path)


def convert(rows: Iterable[Row], out: Path, seen: Callable[[Row], None]) -> int:
    """Write rows as a file of records, of the kind its suffix names.

    ``.jsonl`` leaves media files where they are and writes media in memory to ``media/`` beside
    it; ``.parquet``, ``.tar`` (a WebDataset) and a folder without suffix (shards) carry all bytes.
    ``out`` is replaced when everything is written, and untouched if anything goes wrong.

    Args:
        rows: What to write; rows in memory at once are one, or one row group.
        out: The file, or a new folder.
        seen: Told every row once; content that could not be written has become ``Failed``.

    Returns:
        How many rows were written.

    Raises:
        ConfigError: Another suffix, or a folder that exists.
        DataError: Nothing could be written, or not there.
    """
    if out.suffix not in _WRITERS:
        raise ConfigError(f"{out} is no .jsonl, .parquet or .tar, nor a folder without suffix")
    if out.is_dir():
        raise ConfigError(f"{out} is a folder already; give a new name")
    written = 0
    with _WRITERS[out.suffix](out) as write:
        for row in rows:
            content = row.content
            if not isinstance(content, Failed):
                try:
                    write(content)
                    written += 1
                except (DataError, MediaError) as error:
                    content = Failed(str(error), error)
            seen(replace(row, content=content))
        if not written:
            raise DataError(f"no row can be used, so {out} is not written")
    return written


def with_media(content: Example, change: Callable[[Image | Video], Path | bytes]) -> Example:
    """The same content with every picture, frame and clip file replaced by what ``change`` says."""

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
    """A record as a line of a JSONL file in ``folder``; media in memory become ``media/<sha>.*``.

    Raises:
        DataError: A text that no file can hold.
        MediaError: A medium that is neither a file nor its bytes.
    """

    def stored(medium: Image | Video) -> Path:
        if isinstance(medium.source, str | Path):
            return Path(medium.source)
        held = _bytes(medium)
        name = f"{hashlib.sha256(held).hexdigest()[:32]}{_suffix(medium, held)}"
        path = folder / "media" / name
        if not path.exists():
            with replacing(path) as temporary:
                temporary.write_bytes(held)
        return path

    if not all(isinstance(one.source, str | Path) for one in content.media):
        content = with_media(content, stored)
    return _line(example_row(content, folder))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that becomes ``path`` in the end; after an error it is gone.

    Raises:
        DataError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError as error:
        told = error.object[error.start : error.end]
        raise DataError(f"no file can hold the half character {told!a} of a text") from error


def _bytes(medium: Image | Video) -> bytes:
    source = medium.source
    if isinstance(source, bytes):
        return source
    if not isinstance(source, str | Path):
        raise MediaError(f"a medium is a file or its bytes, not a {type(source).__name__}")
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise MediaError(f"{source}: cannot be opened: {error.strerror}") from error


def _suffix(medium: Image | Video, held: bytes) -> str:
    if isinstance(medium.source, str | Path) and Path(medium.source).suffix:
        return Path(medium.source).suffix.lower()
    found = (suffix for start, suffix in _SUFFIXES if re.match(start, held, re.DOTALL))
    return next(found, ".bin")


def _packed(content: Example) -> tuple[dict[str, Any], dict[str, bytes]]:
    media: dict[str, bytes] = {}

    def embedded(medium: Image | Video) -> Path:
        held = _bytes(medium)
        name = f"{len(media)}{_suffix(medium, held)}"
        media[name] = held
        return Path(name)

    return example_row(with_media(content, embedded), Path()), media


def _restored(packed: Iterable[_Packed | Failed]) -> Iterator[Row]:
    names: dict[str, int] = {}
    for n, one in enumerate(packed, 1):
        content = one if isinstance(one, Failed) else _unpacked(one)
        if not isinstance(content, Failed) and content.id in names:
            content = _failed(f"duplicate id {content.id!r} (first on row {names[content.id]})")
        if isinstance(content, Failed):
            yield Row(n, f"row {n}", content)
        else:
            names[content.id] = n
            yield Row(n, content.id, content)


def _unpacked(packed: _Packed) -> Example | Failed:
    content = parse_row(packed.row, Path())
    if isinstance(content, Failed):
        return content
    try:
        return with_media(content, lambda medium: packed.media[str(medium.source)])
    except KeyError as error:
        return _failed(f"medium {error} is not packed with its row")


def _failed(told: str) -> Failed:
    return Failed(told, DataError(told))


@contextmanager
def _jsonl(out: Path) -> Iterator[_Write]:
    with replacing(out) as temporary, temporary.open("wb") as file:

        def write(content: Example) -> None:
            file.write(record_line(content, out.parent))

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

    def write(content: Example) -> None:
        nonlocal size
        row, media = _packed(content)
        _line(row)
        row |= {name: json.dumps(row.get(name, []), ensure_ascii=False) for name in _NESTED}
        given = (name for name in _OPTIONAL if row.get(name) is not None)
        row |= {name: json.dumps(row[name], ensure_ascii=False) for name in given}
        row["media"] = [{"path": name, "bytes": held} for name, held in media.items()]
        group.append(row)
        size += sum(map(len, media.values())) + 4096
        if size > GROUP_BYTES:
            flush()

    def flush() -> None:
        nonlocal size
        writer.write_table(pa.Table.from_pylist(group, schema=schema))
        group.clear()
        size = 0

    with replacing(out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        yield write
        if group:
            flush()


@contextmanager
def _tars(out: Path) -> Iterator[_Write]:
    """A tar, or a folder of them, as WebDataset lays them out: ``<row>.json``, ``<row>.0.png``."""
    shards, n_rows, size = count(), 0, 0

    def opened() -> tarfile.TarFile:
        path = temporary if out.suffix else temporary / f"{next(shards):06d}.tar"
        return stack.enter_context(tarfile.open(path, "w"))

    def write(content: Example) -> None:
        nonlocal tar, n_rows, size
        row, media = _packed(content)
        members = {"json": _line(row), **media}
        if size > SHARD_BYTES and not out.suffix:
            stack.close()
            tar, size = opened(), 0
        for name, held in members.items():
            member = tarfile.TarInfo(f"{n_rows:09d}.{name}")
            member.size = len(held)
            tar.addfile(member, BytesIO(held))
            size += len(held)
        n_rows += 1

    with replacing(out) as temporary, ExitStack() as stack:
        if not out.suffix:
            temporary.mkdir()
        tar = opened()
        yield write


_WRITERS = {".jsonl": _jsonl, ".parquet": _parquet, ".tar": _tars, "": _tars}


def _parquet_rows(path: Path) -> Iterator[_Packed | Failed]:
    with extra("bench"):
        import pyarrow as pa
        import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    missing = {*_TEXTS, *_NESTED, "schema", "media"} - set(file.schema_arrow.names)
    if missing:
        raise DataError(
            f"{path} has no columns {', '.join(sorted(missing))}, so it is no packed file of "
            "records; if it was published like that, name its source"
        )
    try:
        # A batch of few rows, because each carries its media.
        for batch in file.iter_batches(batch_size=8):
            yield from map(_packed_row, batch.to_pylist())
    except (OSError, pa.ArrowException) as error:
        yield _failed(f"{path.name} breaks off here: {error}")


def _packed_row(value: dict[str, Any]) -> _Packed | Failed:
    media = {one["path"]: one["bytes"] for one in value.pop("media") or []}
    try:
        nested = {name: json.loads(value[name]) for name in _NESTED}
        for name in _OPTIONAL:
            nested[name] = None if value.get(name) is None else json.loads(value[name])
    except (TypeError, ValueError) as error:
        return _failed(f"{', '.join((*_NESTED, *_OPTIONAL))} are JSON texts: {error}")
    return _Packed(json.dumps(value | nested).encode(), media)


def _shard_rows(path: Path) -> Iterator[_Packed | Failed]:
    shards = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    if not shards:
        raise DataError(f"{path} holds no .tar files")
    for shard in shards:
        try:
            tar = tarfile.open(shard, "r|")  # noqa: SIM115
        except (OSError, tarfile.TarError) as error:
            raise DataError(f"{shard} cannot be read as tar: {error}") from error
        with tar:
            yield from _tar_rows(tar, shard.name)


def _tar_rows(tar: tarfile.TarFile, name: str) -> Iterator[_Packed | Failed]:
    def held(member: tarfile.TarInfo) -> bytes:
        file = tar.extractfile(member)
        return file.read() if file else b""

    files = (member for member in tar if member.isfile())
    try:
        for key, members in groupby(files, lambda member: _key(member.name)):
            parts = {member.name[len(key) + 1 :]: held(member) for member in members}
            row = parts.pop("json", None)
            yield _Packed(row, parts) if row else _failed(f"{name}: no {key}.json")
    except (OSError, tarfile.TarError, EOFError) as error:
        yield _failed(f"{name} breaks off here: {error}")


def _key(name: str) -> str:
    """What stands before the first dot of a file's name: by it WebDataset groups a row."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]
