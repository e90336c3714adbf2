"""Convert decoded frames of video to 8-bit RGB: full range, on white, square, upright.

Interlaced frames stay woven. Primaries and transfer are taken as they are, like the colour
profiles of images.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, cast

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from unified_reward.media.files import Pixels
from unified_reward.media.images import on_white


if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter


# libswscale: bilinear, full_chroma_int, full_chroma_inp, accurate_rnd and bitexact. By default it
# is up to 4 of 255 off, and its 8-bit output wraps around for colours far outside of RGB.
_EXACT = 0x2 | 0x2000 | 0x4000 | 0x40000 | 0x80000
_LIMITED, _FULL = 1, 2


def frame_rgb(
    frame: VideoFrame,
    reformatter: VideoReformatter,
    pixel_shape: Fraction,
    *,
    exact: bool = True,
) -> Pixels:
    """Convert a frame.

    Args:
        frame: Any frame.
        reformatter: Converter, to be used again for the next frame.
        pixel_shape: Width of a pixel by its height, > 0.
        exact: Round colours to the nearest; else as other readers, see `select_frames`.

    Returns:
        RGB, shape (height, width, 3), as it is displayed.
    """
    if exact or not _is_plain(frame):
        pixels = on_white(_eight_bits(frame, reformatter))
    else:
        pixels = cast("Pixels", reformatter.reformat(frame, format="rgb24").to_ndarray())
    size = display_size((frame.width, frame.height), pixel_shape)
    if size != (frame.width, frame.height):
        bicubic = PIL.Image.Resampling.BICUBIC
        pixels = np.asarray(PIL.Image.fromarray(pixels).resize(size, bicubic))
    return _upright(pixels, cast("bytes | None", frame.side_data.get("DISPLAYMATRIX")))


def display_size(size: tuple[int, int], pixel_shape: Fraction) -> tuple[int, int]:
    """Size with square pixels; wide ones widen the frame, high ones heighten it, as in browsers.

    >>> display_size((128, 192), Fraction(2)), display_size((720, 480), Fraction(8, 9))
    ((256, 192), (720, 540))
    """
    width, height = size
    if pixel_shape >= 1:
        return int(width * pixel_shape + Fraction(1, 2)), height
    return width, int(height / pixel_shape + Fraction(1, 2))


def _is_plain(frame: VideoFrame) -> bool:
    """Tell whether a frame is of 8 bits without opacity."""
    form = frame.format
    has_opacity = form.has_palette or any(part.is_alpha for part in form.components)
    return not has_opacity and max(part.bits for part in form.components) == 8


def _eight_bits(frame: VideoFrame, reformatter: VideoReformatter) -> Pixels:
    """Convert to RGB, or RGBA with opacity, of 8 bits."""
    form = frame.format
    bits = min(16, max(part.bits for part in form.components))
    has_opacity = form.has_palette or any(part.is_alpha for part in form.components)
    if bits <= 8 and (form.is_rgb or form.has_palette or bits == 1):
        target = "rgba" if has_opacity else "rgb24"
        if bits < 8 and form.name.endswith("be"):  # libswscale would not swap the bytes
            frame = reformatter.reformat(frame, format=f"{form.name[:-2]}le")
        return cast("Pixels", reformatter.reformat(frame, format=target).to_ndarray())
    target = "gbrap16le" if has_opacity else "gbrp16le"
    if bits == 8 and len(frame.planes) == 3 and not form.is_rgb:
        frame = _with_repeated_chroma(frame)
    converted = reformatter.reformat(frame, format=target, interpolation=_EXACT)
    deep = cast("NDArray[np.uint16]", converted.to_ndarray())
    # libswscale shifts values to 16 bits, which leaves white below 65535.
    top = (2**bits - 1) << (16 - bits)
    black, white = 0, 255 << 8
    if form.is_rgb:
        white = 65535
    elif frame.color_range == _FULL:
        white = top
    elif len(form.components) <= 2:  # libswscale takes all grey for full range
        black, white = (16 << 8, 235 << 8) if frame.color_range == _LIMITED else (0, top)
    pixels = _levels(black, white)[deep]
    if has_opacity:
        pixels[..., 3] = _levels(0, top)[deep[..., 3]]
    return pixels


def _with_repeated_chroma(frame: VideoFrame) -> VideoFrame:
    """Repeat the chroma of 8 bits, as FFmpeg's own conversion to RGB and most readers do."""
    from av import VideoFrame as Frame

    size = frame.height, frame.width
    full: list[Pixels] = []
    for plane in frame.planes:
        rows = np.frombuffer(cast("bytes", plane), np.uint8).reshape(-1, plane.line_size)
        values = rows[: plane.height, : plane.width]
        down, right = (-(-n // m) for n, m in zip(size, values.shape, strict=True))
        full.append(values.repeat(down, 0).repeat(right, 1)[: size[0], : size[1]])
    copy = Frame.from_ndarray(np.stack(full), format="yuv444p")
    copy.colorspace = frame.colorspace
    copy.color_range = _FULL if frame.format.name.startswith("yuvj") else frame.color_range
    return copy


@cache
def _levels(black: int, white: int) -> Pixels:
    """List the 8-bit value of each 16-bit value."""
    values = (np.arange(65536) - black) * (255 / (white - black))
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _upright(pixels: Pixels, matrix: bytes | None) -> Pixels:
    """Apply a display matrix: turn and mirror the pixels."""
    if matrix is None:
        return pixels
    # x' = a x + c y, y' = b x + d y, with the matrix stored row by row as (a b u) (c d v) ...
    a, b, _, c, d = (int(value) for value in np.frombuffer(matrix, np.int32)[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels = pixels.transpose(1, 0, 2)
        a, d = c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
