"""Pictures and clips that compress as photographs do, their encodings, and what these cost.

Every picture that is sent is different: a serial number in a comment of the file makes its bytes
unlike all others at no cost, so that no server can answer from memory.
"""

from __future__ import annotations

import base64
import io
import struct
import time
import zlib
from collections.abc import Callable
from functools import partial
from itertools import count

import numpy as np
import PIL.Image

from unified_reward import media
from unified_reward.core.samples import Image, Video


FORMATS = ("png", "webp", "jpeg95", "jpeg75", "npy")
_REPEATS = 5


def picture(side: int, seed: int) -> np.ndarray:
    """A random RGB picture whose spectrum falls as that of photographs, uint8 HWC."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((4, side, side))) / (side * frequency) ** 1.9
    grey, *colours = np.fft.irfft2(spectrum, (side, side))
    planes = np.stack([grey + 0.3 * colour for colour in colours], -1)
    planes = (planes - planes.mean()) / planes.std()
    return (128 + 50 * planes).clip(0, 255).astype(np.uint8)


def clip(side: int, n: int, seed: int) -> np.ndarray:
    """A window that moves over a picture, uint8 THWC."""
    large = picture(side + 2 * n, seed)
    return np.stack([large[2 * i : 2 * i + side, i : i + side] for i in range(n)])


def encode(pixels: np.ndarray, kind: str) -> bytes:
    """One picture as the bytes of a file."""
    buffer = io.BytesIO()
    if kind == "npy":
        np.save(buffer, pixels)
        return buffer.getvalue()
    image = PIL.Image.fromarray(pixels)
    if kind == "png":
        image.save(buffer, "PNG", compress_level=1)
    elif kind == "webp":
        image.save(buffer, "WEBP", lossless=True, method=0)
    else:
        image.save(buffer, "JPEG", quality=int(kind.removeprefix("jpeg")))
    return buffer.getvalue()


def unlike(content: bytes, kind: str, serial: int) -> bytes:
    """The same picture as other bytes: a comment in a PNG or JPEG, other pixels in an array."""
    mark = struct.pack(">Q", serial)
    if kind == "png":
        chunk = b"tEXt" + b"n\0" + mark.hex().encode()
        whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        return content[:-12] + whole + content[-12:]
    if kind.startswith("jpeg"):
        return content[:2] + b"\xff\xfe\x00\x0a" + mark + content[2:]
    if kind == "npy":
        return content[:-8] + mark
    raise ValueError(f"a picture as {kind} cannot be made unlike others")


class Album:
    """Encoded pictures, each unlike every other; numbers are never used twice."""

    def __init__(self, side: int, kind: str, n: int = 16, *, first: int = 0) -> None:
        self.kind = kind
        self._files = [encode(picture(side, seed), kind) for seed in range(n)]
        self._serial = count(first)

    def take(self, n: int) -> list[bytes]:
        """The next n pictures."""
        serials = [next(self._serial) for _ in range(n)]
        return [unlike(self._files[i % len(self._files)], self.kind, i) for i in serials]


def _fastest_ms(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_REPEATS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def _cost(name: str, size: str, make: Callable[[], bytes], read: Callable[[bytes], object]) -> dict:
    content = make()
    return {
        "medium": size,
        "format": name,
        "encode_ms": round(_fastest_ms(make), 2),
        "decode_ms": round(_fastest_ms(lambda: read(content)), 2),
        "kB": round(len(content) / 1000, 1),
        "base64_kB": round(len(base64.b64encode(content)) / 1000, 1),
    }


def _pixels_of_npy(content: bytes) -> object:
    return media.open_image(Image(np.load(io.BytesIO(content)), layout="HWC"))


def encoding_costs(sides: tuple[int, ...] = (512, 1024), frames: int = 16) -> list[dict]:
    """Processor time and bytes of each format: a picture of each size, and a clip of 256 pixels."""
    rows = []
    for side in sides:
        pixels = picture(side, 0)
        for kind in FORMATS:
            read = _pixels_of_npy if kind == "npy" else lambda x: media.open_image(Image(x))
            rows.append(_cost(kind, f"{side} x {side}", partial(encode, pixels, kind), read))
    return rows + _clip_costs(clip(256, frames, 0))


def _clip_costs(pixels: np.ndarray) -> list[dict]:
    n = len(pixels)
    size = f"{n} frames of {pixels.shape[2]} x {pixels.shape[1]}"

    def as_png() -> bytes:
        return b"".join(encode(frame, "png") for frame in pixels)

    files = [encode(frame, "png") for frame in pixels]
    frames = Video(tuple(Image(file) for file in files), fps=8)

    def sampled(video: Video) -> object:
        return media.sample_frames(video, n)

    return [
        _cost("mp4", size, lambda: media.encode_mp4(pixels, 8), lambda x: sampled(Video(x))),
        _cost("frames, png", size, as_png, lambda _: sampled(frames)),
        _cost(
            "npy",
            size,
            lambda: encode(pixels, "npy"),
            lambda x: sampled(Video(np.load(io.BytesIO(x)), layout="THWC", fps=8)),
        ),
    ]
