"""Images and videos made by hand, and where the real ones are."""

import io
import os
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest


SHARED = Path(
    os.environ.get("UNIFIED_REWARD_SHARED", Path(__file__).parents[4] / "shared")
).resolve()
REAL = SHARED / "data" / "real_media"
FETV = SHARED / "data" / "fetv"
needs_real_media = pytest.mark.skipif(
    not REAL.is_dir(), reason="needs real media: set UNIFIED_REWARD_SHARED to their folder"
)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# Two rows, three columns, no symmetry: every way of turning it looks different.
CARD = np.array([[RED, GREEN, BLUE], [WHITE, (0, 0, 0), (9, 9, 9)]], np.uint8)

# A turned image is stored so that applying the orientation restores CARD. Each entry turns CARD
# back, read off the EXIF definition: 2 mirrored, 3 half a turn, 4 upside down, 5 transposed,
# 6 wants a quarter clockwise (so it lies a quarter counter-clockwise), 7 anti-transposed, 8 the
# reverse of 6.
STORED = {
    1: CARD,
    2: CARD[:, ::-1],
    3: CARD[::-1, ::-1],
    4: CARD[::-1],
    5: CARD.transpose(1, 0, 2),
    6: np.rot90(CARD, 1),
    7: CARD[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(CARD, -1),
}


def picture(pixels):
    return PIL.Image.fromarray(np.asarray(pixels, np.uint8))


def file_of(image, fmt, **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def noise(*shape):
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def grey_steps(n, size=(16, 16)):
    """A video whose frame ``i`` is grey of value ``10 * i``."""
    return np.stack([np.full((*size, 3), 10 * i, np.uint8) for i in range(n)])


def encoded(path, codec, pixels, *, pix_fmt="yuv420p", rate=10, options=None, container=None):
    """A video written with any codec, muxed with any container options."""
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = pix_fmt
        for frame in pixels:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    return path.read_bytes()


def png_claiming(width, height):
    """A PNG whose header promises a size, with next to no data."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data
