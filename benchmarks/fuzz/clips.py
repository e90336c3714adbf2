"""Mutated clips, read by ``media`` and, independently, by a plain decoding of all frames."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from benchmarks.fuzz.images import picture
from benchmarks.fuzz.kind import WrongReadError
from benchmarks.fuzz.mutate import box_file, boxes, mutate_media
from unified_reward import media
from unified_reward.core.errors import MediaError


SHARE = 16
TOLERANCE = 2
"""Of 255, in the brightness of any pixel and the mean colour: rounding to 8 bits, twice."""
LOOSE_TOLERANCE = 6
"""The same where libswscale converts the colours."""
_FULL = 2
_MATRICES = {
    **dict.fromkeys((2, 5, 6), (0.299, 0.587, 0.114)),
    1: (0.2126, 0.7152, 0.0722),
    9: (0.2627, 0.678, 0.0593),
}
"""Shares of red, green and blue in brightness, by FFmpeg's number; 2 is not stated."""
_LUMA = np.array((0.299, 0.587, 0.114))
_LIMITS = media.Limits(max_pixels=2**22)
_SIZE = 64, 48
_ENDLESS = b"G@", b"\0\0\x01\xba", b"FLV", b"OggS", b"0&\xb2u"
"""Beginnings of MPEG, FLV, Ogg and ASF, which do not tell where they end; other files that were cut
are refused."""
_UNCHANGED = (1, 0, 0, 1)
_TURNS = {"90": (0, 1, -1, 0), "180": (-1, 0, 0, -1), "270": (0, -1, 1, 0), "mirror": (-1, 0, 0, 1)}
_FORMATS = (
    *(("libx264", "mp4", "yuv420p"), ("libx265", "mp4", "yuv420p"), ("libx264", "mov", "yuv420p")),
    *(("libx265", "mp4", "yuv420p10le"), ("libx264", "mp4", "yuv420p10le")),
    *(("libx264", "matroska", "yuv444p"), ("ffv1", "matroska", "yuv420p")),
    *(
        ("libvpx-vp9", "webm", "yuv420p"),
        ("libvpx", "webm", "yuv420p"),
        ("libvpx", "ogg", "yuv420p"),
    ),
    *(("mpeg4", "avi", "yuv420p"), ("mjpeg", "avi", "yuvj420p"), ("png", "mov", "rgb24")),
    *(("libx264", "mpegts", "yuv420p"), ("mpeg2video", "mpegts", "yuv420p")),
    *(("mpeg2video", "mpeg", "yuv420p"), ("flv", "flv", "yuv420p"), ("wmv2", "asf", "yuv420p")),
    ("libsvtav1", "mp4", "yuv420p"),
)


class Frame(NamedTuple):
    """One frame of the reference."""

    pixels: NDArray[np.float64]
    """Upright, as the file stores them: pixels need not be square."""
    is_exact: bool
    """False where libswscale converts the colours of an unusual format."""
    defined: bool
    """False for an odd display matrix, and where FFmpeg shows, without a word, memory that a
    damaged frame never filled: it then depends on what was there before."""
    stretch: float
    """Width of a pixel over its height, upright."""
    time_s: float | None


@contextmanager
def _quiet() -> Any:
    """Keep the encoders, which write to the terminal themselves, silent."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def encode(
    codec: str,
    container: str,
    pixel_format: str,
    *,
    times: tuple[int, ...] = tuple(range(6)),
    aspect: Fraction | None = None,
    colours: tuple[int, int] | None = None,
) -> bytes:
    """Encode a small moving gradient; ``times`` are in tenths of a second."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *_SIZE, pixel_format
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
            stream.sample_aspect_ratio = aspect
        if colours:
            stream.codec_context.colorspace, stream.codec_context.color_range = colours
        still = picture(*_SIZE)
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.roll(still, 8 * i, 1), format="rgb24")
            frame.pts = time
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return file.getvalue()


def turned(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """Write a display matrix into the track header of an MP4 file."""
    words = [
        matrix[0] << 16,
        matrix[1] << 16,
        0,
        matrix[2] << 16,
        matrix[3] << 16,
        0,
        0,
        0,
        1 << 30,
    ]
    written = b"".join(word.to_bytes(4, "big", signed=True) for word in words)

    def change(body: bytes) -> bytes:
        return box_file(
            [
                (name, change(inner))
                if name in (b"moov", b"trak")
                else (name, inner[:40] + written + inner[76:] if name == b"tkhd" else inner)
                for name, inner in boxes(body)
            ]
        )

    return change(data)


def _seeds() -> list[bytes]:
    seeds: list[bytes] = []
    with _quiet():
        for codec, container, pixel_format in _FORMATS:
            with suppress(av.error.FFmpegError, av.codec.codec.UnknownCodecError):
                seeds.append(encode(codec, container, pixel_format))
        plain = encode("libx264", "mp4", "yuv420p")
        seeds += [turned(plain, matrix) for matrix in _TURNS.values()]
        wide = ("mp4", "matroska")
        seeds += [encode("libx264", name, "yuv420p", aspect=Fraction(4, 3)) for name in wide]
        uneven = (0, 1, 5, 6, 20, 21)
        seeds += [encode("libx264", name, "yuv420p", times=uneven) for name in wide]
        seeds.append(encode("libx264", "mp4", "yuv420p", times=(0,)))
        full, limited = 2, 1
        colours = [(1, limited), (1, full), (9, limited), (5, full)]
        seeds += [encode("libx264", "mp4", "yuv420p", colours=each) for each in colours]
        turned_wide = encode("libx264", "mp4", "yuv420p", aspect=Fraction(4, 3))
        seeds.append(turned(turned_wide, _TURNS["90"]))
    return seeds


def _decode(data: bytes, *, hold: bool = True) -> Iterator[tuple[Any, Any]]:
    """Iterate over the stream and its frames; held frames keep their buffers from being reused."""
    with av.open(io.BytesIO(data), metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        decoded = container.decode(stream) if stream else []
        for frame in list(decoded) if hold else decoded:
            yield stream, frame


def reference(data: bytes) -> list[Frame]:
    """All frames by a plain decoding; empty where FFmpeg cannot open or finish the file."""
    try:
        frames = [_frame(frame, stream) for stream, frame in _decode(data)]
        ways = [
            [frame.to_ndarray(format="rgb24") for _, frame in _decode(data, hold=hold)]
            for hold in (True, False)
        ]
    except (av.error.FFmpegError, OSError, ValueError):
        return []
    return [
        frame._replace(defined=frame.defined and np.array_equal(one, other))
        for frame, one, other in zip(frames, *ways, strict=True)
    ]


def _frame(frame: Any, stream: Any) -> Frame:
    if frame.is_corrupt:
        raise ValueError("a damaged frame")
    pixels = _exact(frame)
    is_exact = pixels is not None
    if pixels is None:
        pixels = frame.to_ndarray(format="rgb24").astype(np.float64)
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1
    side = frame.side_data.get("DISPLAYMATRIX")
    matrix = np.frombuffer(side, np.int32) if side is not None else None
    a, b, c, d = _UNCHANGED if matrix is None else (int(matrix[i]) >> 16 for i in (0, 1, 3, 4))
    if (a, b, c, d) not in (_UNCHANGED, *_TURNS.values()):
        return Frame(pixels, is_exact, defined=False, stretch=1, time_s=frame.time)
    height, width = pixels.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    to_x, to_y = a * x + c * y, b * x + d * y
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    upright = np.empty((int(to_y.max()) + 1, int(to_x.max()) + 1, 3))
    upright[to_y, to_x] = pixels
    stretch = float(ratio) if a else 1 / float(ratio)
    return Frame(upright, is_exact, defined=True, stretch=stretch, time_s=frame.time)


def _exact(frame: Any) -> NDArray[np.float64] | None:
    """RGB by the definition of the colour space, each chroma value for its pixels alike.

    None for unusual formats.
    """
    name, height, width = frame.format.name, frame.height, frame.width
    if name == "rgb24":
        return frame.to_ndarray().astype(np.float64)
    if name not in ("yuv420p", "yuvj420p", "yuv420p10le", "yuv444p") or height % 2 or width % 2:
        return None
    if frame.colorspace not in _MATRICES:
        return None
    raw = frame.to_ndarray().astype(np.float64).reshape(-1)
    step = 1 if name == "yuv444p" else 2
    size = height * width, height * width // step**2
    planes = np.split(raw, [size[0], size[0] + size[1]])
    y, u, v = (
        plane.reshape(height // n, width // n).repeat(n, 0).repeat(n, 1)
        for plane, n in zip(planes, (1, step, step), strict=True)
    )
    top = 2 ** frame.format.components[0].bits
    if name == "yuvj420p" or frame.color_range == _FULL:
        y, u, v = y / (top - 1), (u - top / 2) / (top - 1), (v - top / 2) / (top - 1)
    else:
        y, u, v = (
            (256 * y / top - 16) / 219,
            (256 * u / top - 128) / 224,
            (256 * v / top - 128) / 224,
        )
    k_red, k_green, k_blue = _MATRICES[frame.colorspace]
    red, blue = y + 2 * (1 - k_red) * v, y + 2 * (1 - k_blue) * u
    green = (y - k_red * red - k_blue * blue) / k_green
    return 255 * np.stack((red, green, blue), -1).clip(0, 1)


def _check_frame(got: Any, wanted: Frame, name: str) -> None:
    if not wanted.defined or not 0.25 <= wanted.stretch <= 4:
        return
    got = got.astype(np.float64)
    tolerance = TOLERANCE if wanted.is_exact else LOOSE_TOLERANCE
    # Where a colour is cut off at black or white, what is seen depends on the chroma around it.
    cut = ((wanted.pixels < 2) | (wanted.pixels > 253)).any(-1)
    if wanted.stretch == 1:
        if got.shape != wanted.pixels.shape:
            raise WrongReadError(f"{name}: shape {got.shape}, not {wanted.pixels.shape}")
        off = np.abs((got - wanted.pixels) @ _LUMA)[~cut & ((got > 1) & (got < 254)).all(-1)]
        if not off.max(initial=0) <= tolerance:
            raise WrongReadError(f"{name}: brightness is off by {off.max():.1f} of 255")
    shape = got.shape[1] / got.shape[0], wanted.pixels.shape[1] / wanted.pixels.shape[0]
    if not abs(shape[0] / shape[1] / wanted.stretch - 1) < 0.05:
        raise WrongReadError(f"{name}: {got.shape} pixels, where {wanted.stretch} is a pixel")
    shift = np.abs(got.mean((0, 1)) - wanted.pixels.mean((0, 1))).max()
    if cut.mean() < 0.1 and not shift <= tolerance:
        raise WrongReadError(f"{name}: {shift:.1f} of 255 too dark or too bright")


class Clips:
    """Clips of every container and the usual codecs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seeds = _seeds()

    def check(self, rng: Random) -> bool:
        """Recognise and sample one clip."""
        seed = rng.choice(self.seeds)
        is_cut = rng.random() < 0.1
        data = mutate_media(seed, rng, self.seeds) or b"\0"
        if is_cut:
            data = seed[: rng.randrange(1, len(seed))]
        source: Any = data
        if rng.random() < 0.2:
            source = self.folder / "clip.bin"
            source.write_bytes(data)
        count = rng.choice((1, 2, 5, 8))
        kind = None
        try:
            kind = media.image_or_video(source)
            sampled = media.sample_frames(source, count, limits=_LIMITS)
        except MediaError as error:
            if data == seed:
                raise WrongReadError(f"a sound clip is refused: {error}") from error
            return False
        if kind != "video":
            raise WrongReadError(f"frames are read of what is recognised as {kind}")
        whole = reference(seed) if is_cut and not seed.startswith(_ENDLESS) else reference(data)
        self._check(sampled, whole, count, sound=data == seed)
        return True

    def _check(self, got: Any, wanted: list[Frame], count: int, *, sound: bool) -> None:
        if not wanted:
            raise WrongReadError("read, but FFmpeg breaks off or finds a frame damaged")
        if got.n_source != len(wanted):
            raise WrongReadError(f"{got.n_source} frames, the reference has {len(wanted)}")
        places = [int(i) for i in np.linspace(0, len(wanted) - 1, count)]
        for i, pixels in zip(places, got.pixels, strict=True):
            _check_frame(pixels, wanted[i], f"frame {i}")
        times = got.times_s or ()
        if not all(math.isfinite(time) for time in times):
            raise WrongReadError(f"times {times}")
        if sound:
            start = wanted[0].time_s or 0.0
            due = [wanted[i].time_s for i in places]
            if any(
                one is not None and abs(one - start - t) > 1e-3
                for one, t in zip(due, times, strict=True)
            ):
                raise WrongReadError(f"times {times}, not {due}")
