"""Files of media: open them, limit them, name them in messages.

Knows no format. Only regular files are opened: a pipe could wait for ever.
"""

from __future__ import annotations

import io
import re
import stat
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from unified_reward.core.errors import MediaError
from unified_reward.core.samples import Image, Video


PILImage = PIL.Image.Image
"""An opened image; `Image` of `core.samples` is one that may still lie in a file."""
Pixels = NDArray[np.uint8]
ReadableFile = io.BytesIO | io.BufferedReader

# `folder / url` and Path(url) leave a URL behind a folder, and without one of its slashes.
_URL = re.compile(
    r"(?:^|/)(?:(data:(?=[\w.+/-]*[;,]))|(https?|ftp|s3|gs|hf|file):/{1,2})(.*)",
    re.DOTALL | re.IGNORECASE,
)
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Limits:
    """Largest media that are opened; checked before anything is decoded."""

    max_pixels: int = 64 * 1024 * 1024
    """Width times height of an image or a frame. Pillow itself refuses more than about 179 million
    pixels, whatever is set here."""
    max_bytes: int = 512 * 1024 * 1024
    """Size of the file in bytes."""
    max_frames: int = 1_000_000
    """Frames of an animation; of a video where its times are read."""


LIMITS = Limits()


def describe(source: object) -> str:
    """Short name of media in error messages, in one line.

    >>> describe(b"12345"), describe(Image("cat.png"))
    ('<5 bytes>', 'cat.png')
    """
    if isinstance(source, Image | Video):
        source = cast("object", source.source)
    if isinstance(source, str | Path):
        return _short(_url(source) or str(source))
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    if isinstance(source, np.ndarray):
        array = cast("NDArray[Any]", source)
        return f"{array.ndim}-D {array.dtype} array of shape {array.shape}"
    if isinstance(source, PILImage):
        return f"PIL image {source.mode} {source.width}x{source.height}"
    if isinstance(source, tuple):
        return f"tuple of {len(cast('tuple[object, ...]', source))} frames"
    return f"object of type {type(source).__name__}"


def _url(source: str | Path) -> str:
    match = _URL.search(str(source))
    if match is None:
        return ""
    data, scheme, rest = match.groups()
    return f"{data}{rest}" if data else f"{scheme}://{rest}"


def _short(name: str) -> str:
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME // 2]}…{name[-_LONGEST_NAME // 4 :]}"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)


@contextmanager
def open_file(source: str | Path | bytes, limits: Limits) -> Generator[ReadableFile]:
    """Open a file or bytes for reading, refusing what is missing, empty or too large."""
    name = describe(source)
    with _reader(source, name) as file:
        n_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        if n_bytes == 0:
            raise MediaError(f"{name}: the file is empty")
        if n_bytes > limits.max_bytes:
            raise MediaError(f"{name}: {n_bytes} bytes; at most {limits.max_bytes} are read")
        yield file


def _reader(source: str | Path | bytes, name: str) -> ReadableFile:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if _url(source):
        raise MediaError(f"{name}: URLs are not read; give a file")
    path = Path(source)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise MediaError(f"{name}: cannot be opened: not a regular file")
        return path.open("rb")
    except OSError as error:
        raise MediaError(f"{name}: cannot be opened: {error.strerror}") from error
    except ValueError as error:  # a NUL, or a character that no file name can have
        raise MediaError(f"{name}: cannot be opened: {error}") from error


def check_size(size: tuple[int, int], name: str, limits: Limits) -> None:
    """Refuse an image or a frame with too many pixels, or none."""
    width, height = size
    if not 0 < width * height <= limits.max_pixels:
        raise MediaError(
            f"{name}: {width}x{height} pixels; between 1 and {limits.max_pixels} are read"
        )
