"""Media of requests: bytes to checked images and videos, equal ones once.

Opens no file and fetches no URL.
"""

from __future__ import annotations

import base64
import binascii
import io
import threading
import tokenize
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from math import prod
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.lib import format as npy

from unified_reward import media
from unified_reward.core.errors import MediaError, UnifiedRewardError, one_line
from unified_reward.core.samples import Candidate, Image, Layout, Sample, Video
from unified_reward.media import Limits


_PIXEL_BYTES = 3
_MOST_SCANS = 100
"""Passes over a progressive JPEG; encoders write about 10, and each takes time for 20 bytes."""
_MOST_SAMPLES = 5_000_000
"""Samples in the index of an MP4, sound included; FFmpeg takes 72 bytes for each."""
# What numpy's reader of headers lets through: it evaluates them as Python.
_BAD_HEADER = (
    *(ValueError, KeyError, EOFError, SyntaxError, tokenize.TokenError),
    *(MemoryError, RecursionError),
)


class MemoryFullError(UnifiedRewardError):
    """Decoded media of all requests take as much memory as they may; ask again later."""


def decode_base64(text: str) -> bytes:
    """Bytes of base64, with or without the head of a data URL.

    Raises:
        MediaError: It is empty, or no base64.
    """
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise MediaError("a data URL of media is data:TYPE;base64,…")
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"media are base64: {error}; paths and URLs are not opened") from error
    if not content:
        raise MediaError("the medium is empty")
    return content


def read_npy(content: bytes, layout: Layout, limits: Limits) -> np.ndarray[Any, Any]:
    """Pixels of a .npy file, checked by its header before memory is taken.

    Args:
        content: Bytes of the file; uint8 alone.
        layout: HWC or CHW of an image, THWC or TCHW of a video.
        limits: Largest number of pixels of an image or a frame.

    Raises:
        MediaError: It is no such file, of another dtype, or too large.
    """
    stream = io.BytesIO(content)
    try:
        version = npy.read_magic(stream)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, fortran_order, dtype = read_header[version](stream)
    except _BAD_HEADER as error:
        raise MediaError(f"this is not a .npy file: {one_line(error, 200)}") from error
    if dtype != np.uint8:
        raise MediaError(f"pixels of .npy are uint8, not {dtype}")
    if len(shape) != len(layout) or min(shape) < 1:
        raise MediaError(f"pixels of shape {shape} are not a filled array of layout {layout}")
    height, width = shape[layout.index("H")], shape[layout.index("W")]
    if height * width > limits.max_pixels:
        raise MediaError(f"{width}x{height} pixels; at most {limits.max_pixels} are read")
    pixels = np.frombuffer(content, np.uint8, offset=stream.tell())
    if len(pixels) != prod(shape):
        raise MediaError(f"{len(pixels)} bytes of pixels for the shape {shape}")
    return pixels.reshape(shape, order="F" if fortran_order else "C")


class CheckedSample(NamedTuple):
    """A sample whose media are decoded or checked."""

    sample: Sample
    key: bytes
    """Hash of everything but the id: equal questions have equal keys."""


@dataclass
class Room:
    """Memory of the decoded media of one request, until it is answered."""

    sizes: dict[bytes, int] = field(default_factory=dict[bytes, int])
    """Bytes by the hash of a medium."""
    keys: dict[int, bytes] = field(default_factory=dict[int, bytes])
    """Hash by the identity of a medium: pairs of a group share their candidates."""
    is_closed: bool = False


class MediaCache:
    """Checks and decodes media; keeps the latest, up to a number of bytes. Thread-safe.

    Args:
        limits: Of one medium.
        max_bytes: Size of the decoded media that are kept when their requests are answered.
        max_pending_bytes: Size of the decoded media of all requests; an image of 16 megapixels is
            sent in 34 bytes and takes 48 megabytes.
    """

    def __init__(self, limits: Limits, max_bytes: int, max_pending_bytes: int) -> None:
        self._limits = limits
        self._max_bytes = max_bytes
        self._max_pending_bytes = max_pending_bytes
        self._n_bytes = 0
        self._n_pending_bytes = 0
        self._entries: OrderedDict[bytes, tuple[Image | Video, int]] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def room(self) -> Generator[Room]:
        """Memory for the media of a request, given back when the block ends."""
        room = Room()
        try:
            yield room
        finally:
            with self._lock:
                room.is_closed = True
                self._n_pending_bytes -= sum(room.sizes.values())

    def _take(self, room: Room, key: bytes, n_bytes: int) -> None:
        """Count a decoded medium, once for each request."""
        with self._lock:
            if key in room.sizes:
                return
            if sum(room.sizes.values()) + n_bytes > self._max_pending_bytes:
                raise MediaError(
                    "the media of this request take more than "
                    f"{self._max_pending_bytes} bytes when they are decoded; send fewer at once"
                )
            if room.is_closed or self._n_pending_bytes + n_bytes > self._max_pending_bytes:
                raise MemoryFullError("decoded media take all the memory that they may take")
            room.sizes[key] = n_bytes
            self._n_pending_bytes += n_bytes

    def check(self, sample: Sample, room: Room) -> CheckedSample:
        """Decode the images of a sample and check its videos.

        Raises:
            MediaError: A medium cannot be read, or is too large.
            MemoryFullError: There is no memory for it, or its request is not waited for.
        """
        if room.is_closed:
            raise MemoryFullError("nobody waits for this sample")
        digest = blake2b(digest_size=16)

        def add(*texts: str) -> None:
            for text in texts:
                encoded = text.encode(errors="surrogatepass")
                digest.update(len(encoded).to_bytes(8) + encoded)

        def checked(candidate: Candidate) -> Candidate:
            if isinstance(candidate, tuple):
                add("parts", str(len(candidate)))
                return cast("Candidate", tuple(checked(part) for part in candidate))
            if isinstance(candidate, str):
                add("text", candidate)
                return candidate
            key = room.keys.get(id(candidate)) or _digest(candidate)
            room.keys[id(candidate)] = key
            digest.update(key)
            return self._decoded(candidate, key, partial(self._take, room, key))

        add(sample.task.value, sample.prompt, sample.criteria)
        context = tuple(cast("Image | Video", checked(medium)) for medium in sample.context)
        add("candidates")
        candidates = tuple(map(checked, sample.candidates))
        return CheckedSample(
            replace(sample, context=context, candidates=candidates), digest.digest()
        )

    def _decoded(
        self, medium: Image | Video, key: bytes, take: Callable[[int], None]
    ) -> Image | Video:
        with self._lock:
            entry = self._entries.get(key)
            if entry:
                self._entries.move_to_end(key)
        if entry:
            take(entry[1])
            return entry[0]
        decoded, n_bytes = self._decode(medium, take)
        with self._lock:
            if key in self._entries:
                return self._entries[key][0]
            self._entries[key] = decoded, n_bytes
            self._n_bytes += n_bytes
            while self._n_bytes > self._max_bytes:
                self._n_bytes -= self._entries.popitem(last=False)[1][1]
        return decoded

    def _decode(
        self, medium: Image | Video, take: Callable[[int], None]
    ) -> tuple[Image | Video, int]:
        """Decode a medium; a video file stays encoded, for its judge chooses the frames."""
        if isinstance(medium, Image):
            image, n_bytes = self._image(medium)
            take(n_bytes)
            return image, n_bytes
        frames = medium.source
        if isinstance(frames, bytes):
            _check_index(frames)
            self._check_frames(len(media.frame_times(medium, self._limits)))
            take(len(frames))
            return medium, len(frames)
        self._check_frames(len(frames))
        if not isinstance(frames, tuple):
            take(frames.nbytes)
            return medium, frames.nbytes
        first, *others = cast("tuple[Image, ...]", frames)
        image, n_bytes = self._image(first)
        take(n_bytes * len(frames))
        images = [image, *(self._image(frame)[0] for frame in others)]
        sizes = {one.source.size for one in images}
        if len(sizes) > 1:
            raise MediaError(f"frames of {len(sizes)} sizes; those of a video have one")
        return Video(tuple(images), fps=medium.fps), n_bytes * len(frames)

    def _image(self, image: Image) -> tuple[Image, int]:
        if isinstance(image.source, bytes) and image.source.startswith(b"\xff\xd8"):
            n_scans = image.source.count(b"\xff\xda")
            if n_scans > _MOST_SCANS:
                raise MediaError(f"a JPEG of {n_scans} scans; at most {_MOST_SCANS} are read")
        opened = media.open_image(image, limits=self._limits)
        return Image(opened), opened.width * opened.height * _PIXEL_BYTES

    def _check_frames(self, n_frames: int) -> None:
        if not 0 < n_frames <= self._limits.max_frames:
            raise MediaError(f"{n_frames} frames; between 1 and {self._limits.max_frames} are read")


def _check_index(content: bytes) -> None:
    """Refuse an MP4 whose index states more samples than any video has: FFmpeg builds all of it."""
    n_samples = 0
    for kind, offset in ((b"stsz", 12), (b"stz2", 12), (b"trun", 8)):
        place = content.find(kind)
        while place >= 0:
            n_bytes = int.from_bytes(content[max(place - 4, 0) : place])
            if 16 <= n_bytes <= len(content):
                n_samples += int.from_bytes(content[place + offset : place + offset + 4])
            place = content.find(kind, place + 4)
    if n_samples > _MOST_SAMPLES:
        raise MediaError(f"a video of {n_samples} samples; at most {_MOST_SAMPLES} are read")


def _digest(medium: Image | Video) -> bytes:
    """Hash of a medium as it was sent: of its bytes, or of its pixels with their layout."""
    source: Any = medium.source
    digest = blake2b(digest_size=16)
    fps = medium.fps if isinstance(medium, Video) else None
    digest.update(
        f"{type(medium).__name__} {type(source).__name__} {medium.layout} {fps} ".encode()
    )
    if isinstance(source, tuple):
        for frame in cast("Sequence[Image]", source):
            digest.update(_digest(frame))
    elif isinstance(source, np.ndarray):
        digest.update(repr(source.shape).encode())
        digest.update(np.ascontiguousarray(source).data)
    else:
        digest.update(source)
    return digest.digest()
