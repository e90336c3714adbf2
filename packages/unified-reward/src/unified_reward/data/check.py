"""Checks of rows and their media, and facts about rows that mixing and statistics need too."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from unified_reward import media
from unified_reward.core.errors import MediaError
from unified_reward.core.paths import is_file
from unified_reward.core.samples import Example, Form, Image, Task, Video
from unified_reward.core.verdicts import Failed
from unified_reward.io.rows import Row


_MEDIA = MISSING, UNREADABLE = "missing media", "unreadable media"
_MAX_NAMED = 3
"""Media named in the reason of one row."""
_KINDS = 200
"""Kinds of reasons counted each by itself; further ones are counted together."""


class Checked(NamedTuple):
    """A row, and the reason why it cannot be used."""

    row: Row
    reason: str
    """Empty for a sound row."""


def check(rows: Iterable[Row], *, decode: bool = False) -> Iterator[Checked]:
    """Check every row and the media it names, in constant memory.

    Without ``decode`` an image is opened and its checksums read where its format has some (a JPEG
    has none), and of a video the container is opened.

    Args:
        rows: As ``rows_of`` gives them.
        decode: Decode every image, and every frame of every video.

    Yields:
        Every row, sound or not.
    """
    # Of this call alone: a file may come or go before the next.
    look = lru_cache(maxsize=2**16)(_look)
    for row in rows:
        if isinstance(row.content, Failed):
            yield Checked(row, row.content.reason)
        else:
            results = (_problem(medium, look, decode=decode) for medium in files(row.content.media))
            problems = [problem for problem in results if problem]
            more = f" and {len(problems) - _MAX_NAMED} more" if len(problems) > _MAX_NAMED else ""
            yield Checked(row, "; ".join(problems[:_MAX_NAMED]) + more)


def files(media: Iterable[Image | Video]) -> Iterator[Image | Video]:
    """Iterate over media; a video given as frames becomes those images."""
    for medium in media:
        if isinstance(medium.source, tuple):
            yield from medium.source
        else:
            yield medium


def digest(medium: Image | Video) -> str:
    """Return SHA-256 of the bytes of a medium, in hex; a file that has not changed is read once.

    Raises:
        MediaError: It is missing or cannot be read.
    """
    if not isinstance(medium.source, str | Path):
        return media.content_hash(medium)
    try:
        stat = Path(medium.source).stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise MediaError(f"{MISSING}: {medium.source}") from error
    return _digest(str(medium.source), (stat.st_ino, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=2**16)
def _digest(path: str, _state: tuple[int, ...]) -> str:
    return media.content_hash(Image(path))


def question(example: Example) -> str:
    """Return the prompt, or the human turns of a conversation whose candidates are unknown."""
    if example.candidates or not example.messages:
        return example.prompt
    turns = [turn for turn in example.messages if turn.get("from") == "human"]
    return "\n".join(str(turn.get("value", "")) for turn in turns)


def cell(example: Example) -> tuple[Task, Form]:
    """Return task and form of an example, by which rows are counted and mixed."""
    return example.task, example.form


def gist(reason: str) -> str:
    """Return the kind of a reason, without the names and numbers of its row, to count by.

    >>> gist("line 7: duplicate id 'a'"), gist("missing media: a.png, b.png")
    ('line …: duplicate id …', 'missing media')
    """
    for kind in _MEDIA:
        if reason.startswith(kind):
            return kind
    return re.sub(r"""'[^']*'|"[^"]*"|\S*/\S*|\d+(\.\d+)?""", "…", reason)[:120]


def tally(counts: Counter[str], reason: str) -> None:
    """Count a reason under its kind; kinds beyond 200 are ``other``, so that memory is bounded."""
    kind = gist(reason)
    counts[kind if kind in counts or len(counts) < _KINDS else "other"] += 1


def _problem(medium: Image | Video, look: Callable[..., str], *, decode: bool) -> str:
    is_image = isinstance(medium, Image)
    if isinstance(medium.source, bytes):
        return _look(medium.source, is_image=is_image, decode=decode)
    return look(str(medium.source), is_image=is_image, decode=decode)


def _look(source: Any, *, is_image: bool, decode: bool) -> str:
    try:
        if isinstance(source, str) and not is_file(source):
            return f"{MISSING}: {source}"
        if not is_image:
            media.sample_frames(source, 1, "stride_floor") if decode else media.image_or_video(
                source
            )
        elif decode:
            media.open_image(source)
        else:
            media.verify_image(source)
    except OSError as error:  # such as a name that is too long
        return f"{MISSING}: {source}: {error.strerror}"
    except MediaError as error:
        return f"{UNREADABLE}: {error}"
    return ""
