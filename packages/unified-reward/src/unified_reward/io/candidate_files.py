"""Candidates as files: images as PNG, videos as lossless MP4, answers as text.

Knows neither rows nor who made the candidates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast, overload

from unified_reward import media
from unified_reward.core.errors import DataError
from unified_reward.core.samples import Candidate, Example, Image, Video
from unified_reward.io.atomic import write_bytes


Made = TypeVar("Made", bound=Image | Video | str | None)


@overload
def save(made: Made, path: str | Path) -> Made: ...


@overload
def save(made: Sequence[Made], path: str | Path) -> list[Made]: ...


def save(
    made: Image | Video | str | Sequence[Image | Video | str | None] | None, path: str | Path
) -> Any:
    """Write an image as PNG, a video as lossless MP4 or an answer as text; or a list of them.

    Video players read the lossless MP4; browsers do not, see `media.browser_video`.

    Args:
        made: An image, a video or an answer; or a list, such as ``policy.sample`` returns. For
            None, which a safety checker withheld, no file is written.
        path: The file, whose suffix ``.png``, ``.mp4`` or ``.txt`` is added where there is none;
            of a list, the folder for ``0.png``, ``1.png``, …. Folders are made, and files there
            replaced.

    Returns:
        Like ``made``, with images and videos that are these files, so that rows can name them.

    Raises:
        DataError: The file has another suffix, or cannot be written.
        MediaError: An image or video cannot be read.

    Example:
        >>> import numpy as np, tempfile
        >>> image = Image(np.zeros((8, 8, 3), np.uint8), "HWC")
        >>> folder = tempfile.mkdtemp()
        >>> save(image, f"{folder}/black.png").source.name
        'black.png'
        >>> [saved.source.name for saved in save([image, image], folder)]
        ['0.png', '1.png']
    """
    if made is None:
        return None
    if not isinstance(made, Image | Video | str):
        return [save(each, Path(path, str(i))) for i, each in enumerate(made)]
    file = Path(path)
    suffix = ".txt" if isinstance(made, str) else ".png" if isinstance(made, Image) else ".mp4"
    if file.suffix.lower() not in ("", suffix):
        raise DataError(f"{file}: this is written as {suffix}, or name it without a suffix")
    file = file if file.suffix else file.with_suffix(suffix)
    if isinstance(made, str):
        write_bytes(file, made.encode(errors="replace"))
        return made
    write_bytes(file, media.encode_lossless(made)[0])
    return type(made)(file)


def store(example: Example, folder: Path) -> Example:
    """Write the media of an example that are in memory to ``media/`` in a folder.

    Returns:
        The example, all of whose media are files.

    Raises:
        DataError: A file cannot be written.
        MediaError: A medium cannot be read.
    """
    context = tuple(
        cast("Image | Video", store_candidate(each, folder)) for each in example.context
    )
    candidates = tuple(store_candidate(each, folder) for each in example.candidates)
    return replace(example, candidates=candidates, context=context)


def store_candidate(candidate: Candidate, folder: Path) -> Candidate:
    """Write what is in memory to ``media/<SHA-256 of the file>`` in a folder; equal ones once."""
    if isinstance(candidate, tuple):
        return tuple(
            cast("Image | Video | str", store_candidate(part, folder)) for part in candidate
        )
    if isinstance(candidate, str) or _is_file(candidate):
        return candidate
    content, suffix = media.encode_lossless(candidate)
    path = folder / "media" / f"{hashlib.sha256(content).hexdigest()}{suffix}"
    if not path.exists():
        write_bytes(path, content)
    return type(candidate)(path)


def _is_file(medium: Image | Video) -> bool:
    """True for a path, and for frames that are all paths."""
    sources = (
        [frame.source for frame in medium.source]
        if isinstance(medium.source, tuple)
        else [medium.source]
    )
    return all(isinstance(source, str | Path) for source in sources)
