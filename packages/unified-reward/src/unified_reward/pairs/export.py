"""Export of preference pairs to the files that trainers read.

Knows the layouts, not the trainers. Images keep the bytes of their files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import IO, Any

from unified_reward import media
from unified_reward.core.errors import ConfigError, DataError, MediaError
from unified_reward.core.extensions import extra
from unified_reward.core.samples import Candidate, Image, PreferencePair, Task, Video
from unified_reward.data.check import files
from unified_reward.io.atomic import keep_inputs, replacing, write_bytes, write_json
from unified_reward.io.text import read_json
from unified_reward.pairs.preferences import PairRow, read_pairs


FRAMES = 8
"""Frames of a video where a trainer takes images, ``linspace_inclusive``: the published recipe."""

_ENTRIES = "dataset_info.json"
_GROUP_ROWS = 16
_UNDERSTANDING = (Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING)
_PUBLISHED = (*_UNDERSTANDING, Task.IMAGE_GENERATION, Task.VIDEO_GENERATION)
_SWIFT_MARKS = ("bbox", "ref-object", "cot-process", "start-image")
_Rows = Iterator[dict[str, Any]]
_Log = Callable[[str], None]


class Format(StrEnum):
    """Layout of the file, by the trainer that reads it."""

    TRL = "trl"
    DIFFUSERS = "diffusers"
    PUBLISHED = "published"
    PARQUET = "parquet"
    LLAMAFACTORY = "llamafactory"
    SWIFT = "swift"


def export_pairs(
    pairs: str | Path,
    out: str | Path,
    form: Format | str,
    *,
    log: Callable[[str], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Counter[str]:
    """Write the preference pairs of a file as a trainer reads them; rows without one are left out.

    ``out`` is replaced when everything is written, and untouched if anything goes wrong; what
    lies beside it (``frames/`` of videos, ``dataset_info.json``) is added to.

    Args:
        pairs: A JSONL file of made pairs, or of two candidates with a winner; memory holds one
            row, for Parquet 16.
        out: The file, ``.parquet`` or ``.json`` as the format asks.
        form: ``trl``, ``diffusers``, ``published``, ``parquet``, ``llamafactory`` or ``swift``.
        log: Called with the reason for every row that cannot be used.
        on_progress: Called with 1 after every row.

    Returns:
        How many rows were ``written``, ``dropped``, ``failed`` and ``unusable``.

    Raises:
        ConfigError: No such format, or another suffix than its own.
        DataError: A pair of a task that the file does not take, no pair at all, or the file
            cannot be written.

    >>> import PIL.Image
    >>> from tempfile import mkdtemp
    >>> folder = Path(mkdtemp())
    >>> PIL.Image.new("RGB", (8, 8)).save(folder / "a.png")
    >>> row = {"task": "image_understanding", "prompt": "What is it?"}
    >>> row |= {"context": [{"image": "a.png"}], "target": {"winner": "first"}}
    >>> row |= {"candidates": [{"text": "a cat"}, {"text": "a dog"}]}
    >>> write_bytes(folder / "pairs.jsonl", json.dumps(row).encode())
    >>> export_pairs(folder / "pairs.jsonl", folder / "swift.json", "swift")
    Counter({'written': 1})
    """
    try:
        form = Format(form)
    except ValueError:
        raise ConfigError(f"there is no format {form!r}; there are {', '.join(Format)}") from None
    out = Path(out)
    save = _LAYOUTS[form][2]
    suffix = ".json" if save is _save_json else ".parquet"
    if out.suffix != suffix:
        raise ConfigError(f"{form.value} is written as a {suffix} file, not as {out}")
    keep_inputs(out, Path(pairs))
    if form is Format.LLAMAFACTORY:
        _entries(out)
    counts: Counter[str] = Counter()
    with replacing(out) as file:
        save(_made(_counted(Path(pairs), on_progress), out, form, counts, log), file, form)
        if not counts["written"]:
            raise DataError(f"there is no pair to write, so {out} is not written")
    if form is Format.LLAMAFACTORY:
        _add_entry(out)
    return counts


def _counted(pairs: Path, on_progress: Callable[[int], None] | None) -> Iterator[PairRow]:
    for row in read_pairs(pairs):
        yield row
        if on_progress:
            on_progress(1)


def _made(
    rows: Iterable[PairRow], out: Path, form: Format, counts: Counter[str], log: _Log | None
) -> _Rows:
    """Iterate over the rows of the file, one for each pair, and count the fate of every row."""
    tasks, make, save = _LAYOUTS[form]
    marks = _MARKS.get(form, ())
    for row in rows:
        pair, status, reason = row.pair, row.status, row.reason
        if pair:
            if pair.task not in tasks:
                raise DataError(
                    f"line {row.row.line} is a pair of {pair.task.value}, and {out.name} takes "
                    f"{', '.join(tasks)}; split the pairs by task"
                )
            # Rows of one JSON file must have one shape, and that of a row depends on its task.
            tasks = (pair.task,) if save is _save_json else tasks
            try:
                if marks and pair.task in _UNDERSTANDING:
                    _check_marks(pair, form, marks)
                yield make(pair, row, out.parent)
                status = "written"
            except (DataError, MediaError) as error:
                status, reason = "unusable", f"line {row.row.line}: {error}"
        counts[status] += 1
        if status == "unusable" and log:
            log(reason)


def _check_marks(pair: PreferencePair, form: Format, marks: Sequence[str]) -> None:
    """Refuse a text that the trainer would take for a medium."""
    texts = "\n".join((pair.prompt, *_answers(pair)))
    found = [f"<{mark}>" for mark in marks if f"<{mark}>" in texts]
    if found:
        raise DataError(
            f"a text holds {' and '.join(found)}, which {form.value} reads as a mark, not as words"
        )


def _trl(pair: PreferencePair, _row: PairRow, _folder: Path) -> dict[str, Any]:
    images = [{"bytes": _bytes(image), "path": None} for image in _images(*pair.context)]
    chosen, rejected = ([{"role": "assistant", "content": answer}] for answer in _answers(pair))
    prompt = [{"role": "user", "content": pair.prompt}]
    return {"images": images, "prompt": prompt, "chosen": chosen, "rejected": rejected}


def _diffusers(pair: PreferencePair, _row: PairRow, _folder: Path) -> dict[str, Any]:
    two = _bytes(pair.chosen), _bytes(pair.rejected)
    # The chosen image must not always come first; its place follows from the id.
    label = hashlib.sha256(pair.id.encode(errors="surrogatepass")).digest()[0] % 2
    return {"jpg_0": two[1 - label], "jpg_1": two[label], "label_0": label, "caption": pair.prompt}


def _published(pair: PreferencePair, _row: PairRow, folder: Path) -> dict[str, Any]:
    if pair.task in _UNDERSTANDING:
        paths = [_path(image, folder) for image in _images(*pair.context)]
        image = paths[0] if pair.task is Task.IMAGE_UNDERSTANDING and len(paths) == 1 else paths
        answers = dict(zip(("chosen", "rejected"), _answers(pair), strict=True))
        return {"id": pair.id, "image": image, "prompt": pair.prompt, **answers}
    chosen, rejected = _path(pair.chosen, folder), _path(pair.rejected, folder)
    two: dict[str, Any] = {"chosen": chosen, "rejected": rejected}
    if pair.task is Task.IMAGE_GENERATION:
        two = {"jpg_0": chosen, "jpg_1": rejected, "label_0": 1}
    scores = {"chosen_score": pair.chosen_score, "rejected_score": pair.rejected_score}
    return {"caption": pair.prompt, **two, **scores}


def _parquet(pair: PreferencePair, row: PairRow, _folder: Path) -> dict[str, Any]:
    def part(candidate: Candidate) -> dict[str, Any]:
        if isinstance(candidate, str):
            return {"kind": "text", "text": candidate}
        kind = "image" if isinstance(candidate, Image) else "video"
        return {"kind": kind, "bytes": _bytes(candidate)}

    sides = {"chosen": part(pair.chosen), "rejected": part(pair.rejected)}
    context = list(map(_bytes, files(pair.context)))
    tags = json.dumps(dict(pair.tags), ensure_ascii=False, allow_nan=False)
    return vars(row.row.details) | vars(pair) | {"context": context, "tags": tags, **sides}


def _llamafactory(pair: PreferencePair, _row: PairRow, folder: Path) -> dict[str, Any]:
    prompt, paths = _marked(pair, folder)
    chosen, rejected = ({"from": "gpt", "value": answer} for answer in _answers(pair))
    turns = [{"from": "human", "value": prompt}]
    return {"conversations": turns, "chosen": chosen, "rejected": rejected, **paths}


def _swift(pair: PreferencePair, _row: PairRow, folder: Path) -> dict[str, Any]:
    # Swift takes a relative path to start where it is started.
    prompt, relative = _marked(pair, folder)
    paths = {
        kind: [str((folder / path).resolve()) for path in each] for kind, each in relative.items()
    }
    chosen, rejected = _answers(pair)
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": chosen}]
    return {"messages": turns, "rejected_response": rejected, **paths}


def _marked(pair: PreferencePair, folder: Path) -> tuple[str, dict[str, list[str]]]:
    """Return the prompt behind a mark for each medium, and paths from ``folder`` by kind."""
    marks = ""
    paths: dict[str, list[str]] = {"images": [], "videos": []}
    for medium in pair.context:
        is_file = isinstance(medium, Video) and not isinstance(medium.source, tuple)
        parts = (medium,) if is_file else _images(medium)
        added = [_path(part, folder) for part in parts]
        marks += ("<video>" if is_file else "<image>") * len(added)
        paths["videos" if is_file else "images"] += added
    return marks + pair.prompt, paths


def _images(*media_parts: Image | Video) -> Iterator[Image]:
    """Iterate over images, and for each video over its frames."""
    for medium in media_parts:
        if isinstance(medium, Image):
            yield medium
        elif isinstance(medium.source, tuple):
            places = media.frame_indices(len(medium.source), FRAMES, "linspace_inclusive")
            yield from (medium.source[i] for i in places)
        else:
            frames = media.sample_frames(medium, FRAMES, "linspace_inclusive").images()
            yield from (Image(media.encode_png(frame)) for frame in frames)


def _answers(pair: PreferencePair) -> tuple[str, str]:
    if not (isinstance(pair.chosen, str) and isinstance(pair.rejected, str)):
        raise DataError("this layout takes answers in words, not interleaved ones")
    return pair.chosen, pair.rejected


def _source(medium: Candidate) -> Any:
    """Return path or bytes of a medium that can be read; a trainer would stop at any other."""
    if not isinstance(medium, Image | Video) or isinstance(medium.source, tuple):
        raise DataError("this layout takes candidates of one file each, not parts or frames")
    media.open_image(medium) if isinstance(medium, Image) else media.image_or_video(medium.source)
    return medium.source


def _bytes(medium: Candidate) -> bytes:
    source = _source(medium)
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise MediaError(f"{source}: cannot be opened: {error.strerror}") from error


def _path(medium: Candidate, folder: Path) -> str:
    """Return the path of a medium from ``folder``; frames in memory are written to ``frames/``."""
    path = source = _source(medium)
    if isinstance(source, bytes):
        path = folder / "frames" / f"{hashlib.sha256(source).hexdigest()[:32]}.png"
        write_bytes(path, source)
    relative = os.path.relpath(path, folder)
    try:
        relative.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"no file can hold the name {relative!a}, which is not UTF-8") from error
    return relative


def _save_json(made: _Rows, file: IO[bytes], _form: Format) -> None:
    for i, row in enumerate(made):
        separator = ",\n" if i else "[\n"
        file.write((separator + json.dumps(row, ensure_ascii=False, allow_nan=False)).encode())
    file.write(b"\n]\n")


def _save_parquet(made: _Rows, file: IO[bytes], form: Format) -> None:
    with extra("bench"):
        import pyarrow as pa
        import pyarrow.parquet as pq

    schema = _schema(form)
    with pq.ParquetWriter(file, schema) as writer:
        while rows := list(islice(made, _GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _schema(form: Format) -> Any:
    """Return columns that ``datasets`` recognises: images of ``trl`` come back as images."""
    with extra("train"):
        from datasets import Features, List, Value
        from datasets import Image as ImageColumn

    text, binary, score, label = map(Value, ("string", "binary", "float64", "int64"))
    turns = List({"role": text, "content": text})
    part = {"kind": text, "text": text, "bytes": binary}
    sides = {"chosen": part, "rejected": part, "chosen_score": score, "rejected_score": score}
    names = ("id", "task", "prompt", "criteria", "tags", "judge", "family", "strategy")
    columns: dict[Format, dict[str, Any]] = {
        Format.TRL: {
            "images": List(ImageColumn()),
            "prompt": turns,
            "chosen": turns,
            "rejected": turns,
        },
        Format.DIFFUSERS: {"jpg_0": binary, "jpg_1": binary, "label_0": label, "caption": text},
        Format.PARQUET: {**dict.fromkeys(names, text), **sides, "context": List(binary)},
    }
    return Features(columns[form]).arrow_schema


def _add_entry(out: Path) -> None:
    """Add a file to ``dataset_info.json``, by which LLaMA-Factory finds it under its name here."""
    columns = {name: name for name in ("chosen", "rejected", "images", "videos")}
    columns["messages"] = "conversations"
    entry = {"file_name": out.name, "formatting": "sharegpt", "ranking": True, "columns": columns}
    write_json(out.with_name(_ENTRIES), _entries(out) | {out.stem: entry})


def _entries(out: Path) -> dict[str, Any]:
    path = out.with_name(_ENTRIES)
    try:
        return read_json(path) if path.exists() else {}
    except DataError as error:
        raise DataError(f"{path} is not a JSON object, so {out.stem!r} cannot be added") from error


_LAYOUTS = {
    Format.TRL: (_UNDERSTANDING, _trl, _save_parquet),
    Format.DIFFUSERS: ((Task.IMAGE_GENERATION,), _diffusers, _save_parquet),
    Format.PUBLISHED: (_PUBLISHED, _published, _save_json),
    Format.PARQUET: (tuple(Task), _parquet, _save_parquet),
    Format.LLAMAFACTORY: (_UNDERSTANDING, _llamafactory, _save_json),
    Format.SWIFT: (_UNDERSTANDING, _swift, _save_json),
}
_MARKS = {
    Format.PUBLISHED: ("image",),
    Format.LLAMAFACTORY: ("image", "video", "audio"),
    Format.SWIFT: ("image", "video", "audio", *_SWIFT_MARKS),
}
"""Words in angle brackets that a trainer reads as marks inside texts; TRL reads none."""
