"""Preference pairs as the files that trainers read.

Knows the layouts, not the trainers. Pictures keep the bytes of their files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

from unified_reward import media
from unified_reward.core.errors import ConfigError, DataError, MediaError
from unified_reward.core.extensions import extra
from unified_reward.core.samples import Candidate, Image, PreferencePair, Task, Video
from unified_reward.data.check import files
from unified_reward.data.pack import replacing
from unified_reward.pairs.preferences import PairRow


FRAMES = 8
"""Frames of a clip where a trainer takes pictures, ``linspace_inclusive``: the published recipe."""

_GROUP_ROWS = 16
_UNDERSTANDING = (Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING)
_PUBLISHED = (*_UNDERSTANDING, Task.IMAGE_GENERATION, Task.VIDEO_GENERATION)
_Rows = Iterator[dict[str, Any]]
_Tell = Callable[[str], None]


class Format(StrEnum):
    """Who reads the file."""

    TRL = "trl"
    DIFFUSERS = "diffusers"
    PUBLISHED = "published"
    PARQUET = "parquet"
    LLAMAFACTORY = "llamafactory"
    SWIFT = "swift"


def export(rows: Iterable[PairRow], out: Path, form: Format, log: _Tell) -> Counter[str]:
    """Write the pairs among rows as a trainer reads them; rows without a pair are left out.

    ``out`` is replaced when everything is written, and untouched if anything goes wrong; what
    lies beside it (``frames/`` of clips, ``dataset_info.json``) is added to.

    Args:
        rows: As ``read_pairs`` gives them; memory holds one, of Parquet 16.
        out: The file, ``.parquet`` or ``.json`` as the format asks.
        form: Who reads it.
        log: Told why, of every row that cannot be used or whose media cannot be read.

    Returns:
        How many rows were ``written``, ``dropped``, ``failed`` and ``unusable``.

    Raises:
        ConfigError: Another suffix.
        DataError: A pair of a task that the file does not take, no pair at all, or the file
            cannot be written.
    """
    save = _LAYOUTS[form][2]
    suffix = ".json" if save is _save_json else ".parquet"
    if out.suffix != suffix:
        raise ConfigError(f"{form.value} is written as {suffix}; {out} is none")
    counts: Counter[str] = Counter()
    with replacing(out) as path:
        save(_made(rows, out, form, counts, log), path, form)
        if not counts["written"]:
            raise DataError(f"there is no pair to write, so {out} is not written")
    if form is Format.LLAMAFACTORY:
        _add_entry(out)
    return counts


def _made(
    rows: Iterable[PairRow], out: Path, form: Format, counts: Counter[str], log: _Tell
) -> _Rows:
    """Rows of the file, one for each pair; ``counts`` tells what became of every row."""
    tasks, make, save = _LAYOUTS[form]
    for row in rows:
        pair, status, why = row.pair, row.status, row.reason
        if pair:
            if pair.task not in tasks:
                raise DataError(
                    f"line {row.row.line} is a pair of {pair.task.value}, and {out.name} takes "
                    f"{', '.join(tasks)}; split the pairs by task"
                )
            # Rows of one JSON file must have one shape, and that of a row depends on its task.
            tasks = (pair.task,) if save is _save_json else tasks
            try:
                yield make(pair, row, out.parent)
                status = "written"
            except (DataError, MediaError) as error:
                status, why = "unusable", f"line {row.row.line}: {error}"
        counts[status] += 1
        if status == "unusable":
            log(why)


def _trl(pair: PreferencePair, _row: PairRow, _folder: Path) -> dict[str, Any]:
    images = [{"bytes": _bytes(one), "path": None} for one in _pictures(*pair.context)]
    chosen, rejected = ([{"role": "assistant", "content": one}] for one in _answers(pair))
    prompt = [{"role": "user", "content": pair.prompt}]
    return {"images": images, "prompt": prompt, "chosen": chosen, "rejected": rejected}


def _diffusers(pair: PreferencePair, _row: PairRow, _folder: Path) -> dict[str, Any]:
    two = _bytes(pair.chosen), _bytes(pair.rejected)
    # The chosen one must not always stand first; the coin belongs to the pair.
    label = hashlib.sha256(pair.id.encode()).digest()[0] % 2
    return {"jpg_0": two[1 - label], "jpg_1": two[label], "label_0": label, "caption": pair.prompt}


def _published(pair: PreferencePair, _row: PairRow, folder: Path) -> dict[str, Any]:
    if pair.task in _UNDERSTANDING:
        shown = [_path(one, folder) for one in _pictures(*pair.context)]
        image = shown[0] if pair.task is Task.IMAGE_UNDERSTANDING and len(shown) == 1 else shown
        words = dict(zip(("chosen", "rejected"), _answers(pair), strict=True))
        return {"id": pair.id, "image": image, "prompt": pair.prompt, **words}
    chosen, rejected = _path(pair.chosen, folder), _path(pair.rejected, folder)
    two: dict[str, Any] = {"chosen": chosen, "rejected": rejected}
    if pair.task is Task.IMAGE_GENERATION:
        two = {"jpg_0": chosen, "jpg_1": rejected, "label_0": 1}
    scores = {"chosen_score": pair.chosen_score, "rejected_score": pair.rejected_score}
    return {"caption": pair.prompt, **two, **scores}


def _parquet(pair: PreferencePair, row: PairRow, _folder: Path) -> dict[str, Any]:
    def part(one: Candidate) -> dict[str, Any]:
        if isinstance(one, str):
            return {"kind": "text", "text": one}
        return {"kind": "image" if isinstance(one, Image) else "video", "bytes": _bytes(one)}

    sides = {"chosen": part(pair.chosen), "rejected": part(pair.rejected)}
    context = list(map(_bytes, files(pair.context)))
    return vars(row.row.details) | vars(pair) | {"context": context, **sides}


def _llamafactory(pair: PreferencePair, _row: PairRow, folder: Path) -> dict[str, Any]:
    prompt, shown = _marked(pair, folder)
    chosen, rejected = ({"from": "gpt", "value": one} for one in _answers(pair))
    turns = [{"from": "human", "value": prompt}]
    return {"conversations": turns, "chosen": chosen, "rejected": rejected, **shown}


def _swift(pair: PreferencePair, _row: PairRow, folder: Path) -> dict[str, Any]:
    # Swift takes a relative path to start where it is started.
    prompt, shown = _marked(pair, folder)
    there = {name: [str((folder / one).resolve()) for one in shown[name]] for name in shown}
    chosen, rejected = _answers(pair)
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": chosen}]
    return {"messages": turns, "rejected_response": rejected, **there}


def _marked(pair: PreferencePair, folder: Path) -> tuple[str, dict[str, list[str]]]:
    """The prompt behind a mark for each medium, and their paths by kind, seen from ``folder``."""
    texts = "".join((pair.prompt, *_answers(pair)))
    if "<image>" in texts or "<video>" in texts:
        raise DataError("<image> and <video> stand for media in this file; a text holds one")
    marks = ""
    shown: dict[str, list[str]] = {"images": [], "videos": []}
    for one in pair.context:
        is_file = isinstance(one, Video) and not isinstance(one.source, tuple)
        paths = [_path(part, folder) for part in ((one,) if is_file else _pictures(one))]
        marks += ("<video>" if is_file else "<image>") * len(paths)
        shown["videos" if is_file else "images"] += paths
    return marks + pair.prompt, shown


def _pictures(*shown: Image | Video) -> Iterator[Image]:
    """Pictures, and of each clip its frames: files where it was given as frames."""
    for one in shown:
        if isinstance(one, Image):
            yield one
        elif isinstance(one.source, tuple):
            places = media.frame_indices(len(one.source), FRAMES, "linspace_inclusive")
            yield from (one.source[i] for i in places)
        else:
            frames = media.sample_frames(one, FRAMES, "linspace_inclusive").images()
            yield from (Image(media.encode_png(frame)) for frame in frames)


def _answers(pair: PreferencePair) -> tuple[str, str]:
    if not (isinstance(pair.chosen, str) and isinstance(pair.rejected, str)):
        raise DataError("an interleaved answer has no place in this file; words have")
    return pair.chosen, pair.rejected


def _source(medium: Candidate) -> Any:
    """The path or the bytes of a medium that can be read: at any other a trainer would stop."""
    if not isinstance(medium, Image | Video) or isinstance(medium.source, tuple):
        raise DataError("a candidate of parts or frames has no place in this file; one file has")
    media.open_image(medium) if isinstance(medium, Image) else media.image_or_video(medium.source)
    return medium.source


def _bytes(medium: Candidate) -> bytes:
    source = _source(medium)
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def _path(medium: Candidate, folder: Path) -> str:
    """Where a medium lies, seen from ``folder``; frames in memory go to ``frames/`` there."""
    path = source = _source(medium)
    if isinstance(source, bytes):
        path = folder / "frames" / f"{hashlib.sha256(source).hexdigest()[:32]}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(source)
    return os.path.relpath(path, folder)


def _save_json(made: _Rows, path: Path, _form: Format) -> None:
    with path.open("w", encoding="utf-8") as file:
        for i, row in enumerate(made):
            file.write((",\n" if i else "[\n") + json.dumps(row, ensure_ascii=False))
        file.write("\n]\n")


def _save_parquet(made: _Rows, path: Path, form: Format) -> None:
    with extra("bench"):
        import pyarrow as pa
        import pyarrow.parquet as pq

    schema = _schema(form)
    with pq.ParquetWriter(path, schema) as file:
        while rows := list(islice(made, _GROUP_ROWS)):
            file.write_table(pa.Table.from_pylist(rows, schema=schema))


def _schema(form: Format) -> Any:
    """Columns that ``datasets`` knows again: pictures of ``trl`` come back as pictures."""
    with extra("train"):
        from datasets import Features, List, Value
        from datasets import Image as ImageColumn

    text, held, score, label = map(Value, ("string", "binary", "float64", "int64"))
    said = List({"role": text, "content": text})
    part = {"kind": text, "text": text, "bytes": held}
    sides = {"chosen": part, "rejected": part, "chosen_score": score, "rejected_score": score}
    texts = dict.fromkeys(("id", "task", "prompt", "judge", "family", "strategy"), text)
    columns: dict[Format, dict[str, Any]] = {
        Format.TRL: {
            "images": List(ImageColumn()),
            "prompt": said,
            "chosen": said,
            "rejected": said,
        },
        Format.DIFFUSERS: {"jpg_0": held, "jpg_1": held, "label_0": label, "caption": text},
        Format.PARQUET: {**texts, **sides, "context": List(held)},
    }
    return Features(columns[form]).arrow_schema


def _add_entry(out: Path) -> None:
    """By ``dataset_info.json`` LLaMA-Factory finds a file, under the name it has here."""
    path = out.with_name("dataset_info.json")
    columns = {name: name for name in ("chosen", "rejected", "images", "videos")}
    columns["messages"] = "conversations"
    entry = {"file_name": out.name, "formatting": "sharegpt", "ranking": True, "columns": columns}
    with replacing(path) as temporary:
        try:
            known = json.loads(path.read_bytes()) if path.exists() else {}
            text = json.dumps(known | {out.stem: entry}, indent=2, ensure_ascii=False)
        except (ValueError, TypeError) as error:
            raise DataError(f"{path} is no JSON object to add {out.stem!r} to") from error
        temporary.write_text(text + "\n", "utf-8")


_LAYOUTS = {
    Format.TRL: (_UNDERSTANDING, _trl, _save_parquet),
    Format.DIFFUSERS: ((Task.IMAGE_GENERATION,), _diffusers, _save_parquet),
    Format.PUBLISHED: (_PUBLISHED, _published, _save_json),
    Format.PARQUET: (tuple(Task), _parquet, _save_parquet),
    Format.LLAMAFACTORY: (_UNDERSTANDING, _llamafactory, _save_json),
    Format.SWIFT: (_UNDERSTANDING, _swift, _save_json),
}
