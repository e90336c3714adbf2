"""Animations of GIF and PNG as browsers show them: each frame composed on a transparent canvas.

Pillow decodes the single frames. Its own composition counts a hidden default image as a frame and
fills what no frame covers with a colour of the palette.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import PIL.Image

from unified_reward.media.metadata import Chunk, png_of


_KEEP, _CLEAR, _RESTORE = 0, 1, 2
_GIF_DISPOSALS = {2: _CLEAR, 3: _RESTORE}


@dataclass(frozen=True)
class Part:
    """One frame of an animation: an image of its own, and its place on the canvas."""

    data: bytes
    """A still file of the part alone."""
    corner: tuple[int, int]
    size: tuple[int, int]
    duration_ms: float
    disposal: int
    """Fate of the part after its frame: kept, cleared, or replaced by the canvas before it."""
    is_blended: bool
    """True to lay the part over the canvas, False to replace it."""


def png_parts(chunks: Sequence[Chunk]) -> tuple[Part, ...]:
    """Split an animated PNG; empty for a still.

    An image that stands apart from the animation is not a frame: no browser shows it.

    Raises:
        ValueError: Frames are missing, out of order, or outside the canvas.
        struct.error: A chunk is too short.
    """
    kinds = [kind for kind, _ in chunks]
    if b"acTL" not in kinds or kinds.index(b"acTL") > kinds.index(b"IDAT"):
        return ()
    (n_frames,) = struct.unpack_from(">I", chunks[kinds.index(b"acTL")][1])
    header = chunks[0][1]
    shared = [chunk for chunk in chunks if chunk[0] in (b"PLTE", b"tRNS")]
    controls: list[bytes] = []
    bodies: list[list[Chunk]] = []
    n_numbered = 0
    for kind, body in chunks:
        if kind in (b"fcTL", b"fdAT"):
            if struct.unpack_from(">I", body) != (n_numbered,):
                raise ValueError("its frames are out of order")
            n_numbered += 1
        if kind == b"fcTL":
            controls.append(body)
            bodies.append([])
        elif kind in (b"IDAT", b"fdAT") and bodies:
            bodies[-1].append((b"IDAT", body[4:] if kind == b"fdAT" else body))
    if len(controls) < n_frames or not all(bodies[:n_frames]):
        raise ValueError(f"the animation ends after frame {len(controls)} of {n_frames}")
    return tuple(
        _png_part(control, header, [*shared, *body])
        for control, body in zip(controls[:n_frames], bodies, strict=False)
    )


def _png_part(control: bytes, header: bytes, chunks: Sequence[Chunk]) -> Part:
    width, height, x, y, count, per_second, disposal, blend = struct.unpack_from(
        ">4IHHBB", control, 4
    )
    canvas_width, canvas_height = struct.unpack_from(">II", header)
    if x + width > canvas_width or y + height > canvas_height:
        raise ValueError("a frame lies outside of the canvas")
    data = png_of([(b"IHDR", control[4:12] + header[8:]), *chunks, (b"IEND", b"")])
    duration_ms = 1000 * count / (per_second or 100)
    return Part(data, (x, y), (width, height), duration_ms, disposal, bool(blend))


def gif_parts(data: bytes, max_frames: int) -> tuple[tuple[int, int], tuple[Part, ...]]:
    """Split a GIF, still or animated, into the size of its canvas and its frames.

    Raises:
        ValueError: There is no frame, or there are too many.
        struct.error, IndexError: The file ends within a header.
    """
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    place = 13
    palette, place = _gif_palette(data, place, flags)
    control = bytes(4)
    parts: list[Part] = []
    while place < len(data) and data[place] != 0x3B:
        kind = data[place]
        if kind == 0x21:
            label, length = data[place + 1 : place + 3]
            if label == 0xF9 and length >= 4:
                control = data[place + 3 : place + 7]
            place = _end_of_blocks(data, place + 2)
        elif kind == 0x2C:
            x, y, *size, flags = struct.unpack_from("<4HB", data, place + 1)
            own, begin = _gif_palette(data, place + 10, flags)
            place = _end_of_blocks(data, begin + 1)
            parts.append(_gif_part((x, y), size, own or palette, control, flags, data[begin:place]))
            control = bytes(4)
            if len(parts) > max_frames:
                raise ValueError(f"more than {max_frames} frames")
        else:
            place += 1
    if not parts:
        raise ValueError("there is no image in it")
    # Browsers enlarge a canvas that is too small for the first frame, and cut all others.
    (x, y), size = parts[0].corner, parts[0].size
    return (max(width, x + size[0]), max(height, y + size[1])), tuple(parts)


def _gif_palette(data: bytes, place: int, flags: int) -> tuple[bytes, int]:
    end = place + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    return data[place:end], end


def _end_of_blocks(data: bytes, place: int) -> int:
    while place < len(data) and data[place]:
        place += 1 + data[place]
    return place + 1


def _gif_part(
    corner: tuple[int, int],
    size: Sequence[int],
    palette: bytes,
    control: bytes,
    flags: int,
    blocks: bytes,
) -> Part:
    bits = (len(palette) // 3).bit_length() - 2
    screen = struct.pack("<HHBBB", *size, 0x80 | bits if palette else 0, 0, 0)
    transparent = b"!\xf9\x04" + bytes([control[0] & 1, 0, 0, control[3], 0])
    image = struct.pack("<B4HB", 0x2C, 0, 0, *size, flags & 0x40) + blocks
    data = b"GIF89a" + screen + palette + transparent + image + b";"
    duration_ms = 10 * int.from_bytes(control[1:3], "little")
    disposal = _GIF_DISPOSALS.get(control[0] >> 2 & 7, _KEEP)
    return Part(data, corner, (size[0], size[1]), duration_ms, disposal, is_blended=True)


def composed(
    canvas_size: tuple[int, int],
    parts: Sequence[Part],
    decode: Callable[[io.BytesIO], PIL.Image.Image],
) -> Iterator[tuple[PIL.Image.Image, float]]:
    """Compose the frames one after another.

    Args:
        canvas_size: Width and height.
        parts: The frames.
        decode: Reads the file of a part as RGBA.

    Yields:
        The canvas, which the next frame changes, and the duration in milliseconds.
    """
    canvas = PIL.Image.new("RGBA", canvas_size)
    for part in parts:
        image = decode(io.BytesIO(part.data))
        before = canvas.copy() if part.disposal == _RESTORE else canvas
        if part.is_blended:
            layer = PIL.Image.new("RGBA", canvas_size)
            layer.paste(image, part.corner)
            canvas.alpha_composite(layer)
        else:
            canvas.paste(image, part.corner)
        yield canvas, part.duration_ms
        if part.disposal == _CLEAR:
            x, y = part.corner
            canvas.paste((0, 0, 0, 0), (x, y, x + image.width, y + image.height))
        canvas = before
