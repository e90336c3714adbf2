"""Published conversations: one question of a human and one answer that states the verdict.

The conversation is kept to the letter. Where an imported wording recognises the question, its
sample is known; else the row is an `Example` with ``messages`` and without candidates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example, Image, Sample, Target, Task, Video
from unified_reward.core.verdicts import Failed, Scale, Unparsed, Winner
from unified_reward.data.sources.fields import Fields, failed, identity
from unified_reward.data.sources.source import Source
from unified_reward.data.sources.streams import Raw
from unified_reward.io.rows import Row
from unified_reward.prompts import parse
from unified_reward.prompts.recognise import recognise


_GENERATION = (Task.IMAGE_GENERATION, Task.VIDEO_GENERATION)
_VIDEO_SUFFIXES = (".mp4", ".webm", ".mov", ".avi", ".mkv", ".gif", ".m4v")
_MARK = re.compile(r" ?<(?:image|video)>\n?")
_VERDICT_ALONE = re.compile(
    r"(?:[^.:\n]{0,40}:)?(?:[\s\d./]+|[^.:,;\n]*\b(?:better|best|preferred|superior|preferable"
    r"|good|tie)(?:\s+than\s[^.,;\n]{0,30})?)\W*",
    re.IGNORECASE,
)


def read(rows: Iterable[Raw], source: Source, folder: Path) -> Iterator[Row]:
    """Read rows ``{"id", "images" | "image" | "video", "conversations": [human, gpt]}``.

    A list of more than one frame is one video, or two halves of one length where videos are
    compared. A row without an id gets one from its content. Options of the source: ``grades``,
    the values of the words an answer begins with; ``checks``, whether lines ``element: 0|1`` are
    aspects; ``rationale``, whether the text beside the verdict is its reason.

    Args:
        rows: The rows of the file.
        source: Whose they are.
        folder: Where relative media paths start; the media are not opened.
    """
    for line, value in rows:
        try:
            if isinstance(value, Failed):
                raise DataError(value.reason)
            content = _content(value, source, folder)
        except DataError as error:
            yield failed(line, str(error))
        else:
            yield Row(line, content.id, content)


def _content(row: Fields, source: Source, folder: Path) -> Example:
    question, answer = _exchange(row.get("conversations"))
    paths = _paths(row)
    n_videos = sum(path.lower().endswith(_VIDEO_SUFFIXES) for path in paths)
    _check_marks(question + answer, len(paths), n_videos)
    media = _media(paths, n_videos, source, folder)
    target = _target(answer, source)
    name, messages = identity(row, "id"), tuple(row["conversations"])
    sample = _sample(_MARK.sub("", question), media, source, name)
    if sample is None:
        return Example(source.task, "", (), media, id=name, target=target, messages=messages)
    return Example.of(sample, target, messages=messages)


def _exchange(turns: Any) -> tuple[str, str]:
    """Return the question of the human and the answer of the judge."""
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("value"), str) for turn in turns
    ):
        raise DataError('"conversations" is a list of {"from": …, "value": text}')
    speakers = [str(turn.get("from")) for turn in turns]
    if speakers != ["human", "gpt"]:
        order = ", ".join(speakers) or "no turn"
        raise DataError(f"turns out of order: {order}, where human and gpt are due")
    return turns[0]["value"], turns[1]["value"]


def _paths(row: Fields) -> list[str]:
    keys = [key for key in ("images", "image", "video") if row.get(key) is not None]
    if len(keys) != 1:
        names = " and ".join(keys) or "none"
        raise DataError(f'a row has one of the keys "images", "image", "video", not {names}')
    paths = row[keys[0]]
    paths = [paths] if isinstance(paths, str) else paths
    if not (
        isinstance(paths, list) and paths and all(isinstance(one, str) and one for one in paths)
    ):
        raise DataError(f'"{keys[0]}" is a path or a list of paths, not {str(paths)[:40]}')
    return paths


def _check_marks(text: str, n: int, n_videos: int) -> None:
    images, videos = text.count("<image>"), text.count("<video>")
    one_each = images + videos == n and videos in (0, n_videos)
    if not one_each and not (n > 2 and (images, videos) == (1, 0)):
        marks = f"{images} <image> and {videos} <video> marks"
        raise DataError(f"{marks} for {n - n_videos} images and {n_videos} videos")


def _media(
    paths: list[str], n_videos: int, source: Source, folder: Path
) -> tuple[Image | Video, ...]:
    n, due = len(paths), 2 if source.form == "compare" and source.task in _GENERATION else 1
    moves = source.task in (Task.VIDEO_GENERATION, Task.VIDEO_UNDERSTANDING)
    if n_videos and (n_videos < n or not moves):
        raise DataError(f"{n_videos} of {n} paths are videos; {source.name} has images there")
    if moves and not n_videos:
        if n % due:
            raise DataError(f"{n} frames cannot be halved into two videos")
        frames = tuple(Image(folder / path) for path in paths)
        size = n // due
        return tuple(Video(frames[start : start + size]) for start in range(0, n, size))
    if n != due:
        noun = "video" if n_videos else "image"
        are = "is" if due == 1 else "are"
        raise DataError(f"{n} {noun}{'s' * (n != 1)} where {due} {are} due")
    return tuple((Video if n_videos else Image)(folder / path) for path in paths)


def _sample(
    question: str, media: tuple[Image | Video, ...], source: Source, name: str
) -> Sample | None:
    form = "compare" if source.form == "compare" else "score"
    found = recognise(question, source.task, form)
    if found is None:
        return None
    slots = found.slots
    if source.task in _GENERATION:
        return Sample(source.task, slots["prompt"], media, id=name)
    answers = (slots["first"],) if form == "score" else (slots["first"], slots["second"])
    return Sample(source.task, slots["prompt"], answers, media, id=name)


def _target(answer: str, source: Source) -> Target:
    if "grades" in source.options:
        return _graded(answer, source.options["grades"], source.scale)
    if source.aspects:
        read = parse.aspects(answer, source.aspects)
        missing = [f"{one.name} ({one.scale})" for one in source.aspects if one.name not in read]
        if missing:
            raise DataError(f"no value in the answer for {', '.join(missing)}")
        scale = source.aspects[0].scale
        return Target(scale=scale, aspects={name: one.value for name, one in read.items()})
    verdict = _verdict(answer, source)
    if isinstance(verdict, Unparsed):
        raise DataError(verdict.reason)
    rationale = _rationale(answer, verdict, source) if "rationale" in source.options else ""
    if isinstance(verdict, str):
        return Target(winner=verdict, rationale=rationale)
    checks = parse.checks(answer) if "checks" in source.options else {}
    aspects = {name: one.value for name, one in checks.items()}
    return Target(verdict, source.scale, aspects, rationale=rationale)


def _graded(answer: str, grades: Mapping[str, float], scale: Scale | None) -> Target:
    match = re.match(r"\W*(\w+)[\s.,:;*]*(.*)", answer, re.DOTALL)
    grade = grades.get(match[1].lower()) if match else None
    if match is None or grade is None:
        raise DataError(f"the answer begins with {answer[:20]!r}, not with {' or '.join(grades)}")
    return Target(grade, scale, rationale=match[2].strip())


def _verdict(answer: str, source: Source) -> Winner | float | Unparsed:
    if source.form == "compare":
        return parse.preference(answer)
    return parse.score(answer, source.scale or Scale(None, None))


def _rationale(answer: str, verdict: Winner | float, source: Source) -> str:
    """The answer without its first or last line, if that is the verdict alone."""
    lines = answer.strip().split("\n")
    for alone, rest in ((lines[-1], lines[:-1]), (lines[0], lines[1:])):
        if _VERDICT_ALONE.fullmatch(alone) and _verdict(alone, source) == verdict:
            return "\n".join(rest).strip()
    return ""
