"""Open an image from a path, bytes, a PIL image or an array.

Formats are recognised by content, never by suffix. Colour profiles are not applied: every image
is taken to be sRGB. Knows nothing of videos beyond the array layouts both share.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import PIL.features
import PIL.Image
from numpy.typing import NDArray

from unified_reward.core.errors import ConfigError, MediaError, one_line
from unified_reward.core.samples import Image, Layout
from unified_reward.media.animations import Part, composed, gif_parts, png_parts
from unified_reward.media.files import (
    LIMITS,
    Limits,
    PILImage,
    Pixels,
    ReadableFile,
    check_size,
    describe,
    open_file,
)
from unified_reward.media.metadata import (
    ImageFormat,
    essential_bytes,
    exif_orientation,
    image_format,
    is_hdr,
    png_chunks,
    png_of,
)


# What Pillow's plugins let through when a file is broken; these have no common base.
_BROKEN = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    AssertionError,
    struct.error,
    zlib.error,
)
_EXIF_ORIENTATION = 0x0112
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_WHITE_IS_ZERO = 258, 262, 0
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageFile:
    """An image file whose header is read and whose size is within the limits."""

    base: PILImage
    """The file as Pillow opens it; of an animated PNG, the image for viewers without animation."""
    kind: ImageFormat
    canvas_size: tuple[int, int]
    parts: tuple[Part, ...] = ()
    """Frames of a GIF or an animated PNG; other formats leave them to Pillow."""

    @property
    def reach(self) -> tuple[int, int]:
        """Width and height of a canvas that no frame leaves."""
        ends = [(p.corner[0] + p.size[0], p.corner[1] + p.size[1]) for p in self.parts]
        width, height = zip(self.canvas_size, *ends, strict=True)
        return max(width), max(height)

    @property
    def n_frames(self) -> int:
        """Number of frames of an animation, 1 for a still; the pages of a TIFF do not count."""
        if self.parts or self.kind not in ("WEBP", "AVIF"):
            return len(self.parts) or 1
        return cast("int", getattr(self.base, "n_frames", 1))

    @property
    def orientation(self) -> int:
        """EXIF orientation; 1 where there is none, or the EXIF is broken."""
        exif = self.base.info.get("exif")
        return exif_orientation(exif) if isinstance(exif, bytes) else _orientation(self.base)

    def frames(self) -> Iterator[tuple[PILImage, float]]:
        """Decode the frames, not yet upright, with their durations in milliseconds.

        A frame is valid until the next is taken.
        """
        if self.parts:
            yield from composed(self.canvas_size, self.parts, _decode_part)
            return
        for i in range(self.n_frames):
            self.base.seek(i)
            self.base.load()
            yield self.base, cast("float", self.base.info.get("duration", 0))

    def durations_ms(self) -> list[float]:
        """Duration of each frame as stated, in milliseconds."""
        if self.parts:
            return [part.duration_ms for part in self.parts]
        return [duration_ms for _, duration_ms in self.frames()]

    def first_frame(self) -> PILImage:
        """Decode the first frame that is shown, upright and on white."""
        image, _ = next(self.frames())
        return upright_rgb(image, self.orientation)


def _decode_part(file: io.BytesIO) -> PILImage:
    image = PIL.Image.open(file, formats=("PNG", "GIF"))
    return PIL.Image.fromarray(_pixels(image)).convert("RGBA")


def open_image(
    image: Image | str | Path | bytes | PILImage, *, limits: Limits = LIMITS
) -> PILImage:
    """Open an image as upright 8-bit RGB.

    PNG, JPEG, BMP, AVIF where Pillow has it, and the first frame of WebP, GIF and TIFF are read.
    EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled (65535
    becomes 255); metadata that cannot be read is passed over.

    Args:
        image: A path, the encoded bytes, a PIL image, or an ``Image`` holding one of them or an
            array: layout HWC or CHW, 1, 3 or 4 channels, uint8, or float in [0, 1].
        limits: Checked before decoding.

    Returns:
        A new image in mode RGB, without metadata.

    Raises:
        MediaError: The file is missing, too large, broken, or not an image.
    """
    source: object = image.source if isinstance(image, Image) else image
    name = describe(source)
    if isinstance(source, str | Path | bytes):
        with open_file(source, limits) as file:
            opened = _required_image(file, name, limits)
            with pillow_errors(name):
                return opened.first_frame()
    if isinstance(source, PILImage):
        check_size(source.size, name, limits)
        with pillow_errors(name):
            return upright_rgb(source, _orientation(source))
    if isinstance(source, np.ndarray):
        layout = image.layout if isinstance(image, Image) else None
        array = cast("NDArray[Any]", source)
        return PIL.Image.fromarray(array_rgb(array, layout, ("HWC", "CHW")))
    raise MediaError(
        f"{name}: not an image; give a path, bytes, a PIL image or a numpy array with its layout"
    )


def verify_image(source: str | Path | bytes) -> None:
    """Check header, size and, where the format has them (a JPEG has none), the checksums.

    Faster than `open_image`: no pixel is decoded.

    Raises:
        MediaError: The file is missing, too large, broken, or not an image.
    """
    name = describe(source)
    with open_file(source, LIMITS) as file:
        image = _required_image(file, name, LIMITS)
        with pillow_errors(name):
            image.base.verify()


def fit_pixels(image: PILImage, max_pixels: int) -> PILImage:
    """Shrink an image, keeping its shape, until it has at most ``max_pixels``; never enlarge it.

    Args:
        image: Any image.
        max_pixels: Width times height allowed, >= 1.

    Returns:
        The image itself if it fits, else a smaller one (bicubic), both sides >= 1.

    Raises:
        ConfigError: ``max_pixels`` is below 1.

    >>> fit_pixels(PIL.Image.new("RGB", (400, 100)), 10_000).size
    (200, 50)
    """
    if max_pixels < 1:
        raise ConfigError(f"max_pixels is {max_pixels}; an image needs at least 1")
    if image.width * image.height <= max_pixels:
        return image
    scale = math.sqrt(max_pixels / (image.width * image.height))
    # The outer min matters where one side is rounded up to 1 and the other alone is too long.
    width = min(max(1, int(image.width * scale)), max_pixels)
    height = min(max(1, int(image.height * scale)), max_pixels // width)
    return image.resize((width, height), PIL.Image.Resampling.BICUBIC)


@contextmanager
def pillow_errors(name: str) -> Generator[None]:
    """Turn every exception of Pillow on a broken file into a MediaError that names the file."""
    try:
        yield
    except _BROKEN as error:
        raise MediaError(f"{name}: the image is broken: {one_line(error)}") from error
    # Pillow has a limit of its own, and raises before the size is known.
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise MediaError(f"{name}: too many pixels: {error}") from error


def identify_image(file: ReadableFile, name: str, limits: Limits) -> ImageFile | None:
    """Read the header of an image and check its size; None if the file is not an image.

    Raises:
        MediaError: The file is a broken image, too large, or of a format that is not read.
    """
    kind = image_format(file.read(512))
    file.seek(0)
    if kind is None:
        return None
    if kind not in get_args(ImageFormat) or (kind == "AVIF" and not _reads_avif()):
        raise MediaError(f"{name}: {kind.upper()} images are not read; {_are_read()}")
    data = file.read()
    if kind in ("AVIF", "PNG") and is_hdr(data):
        raise MediaError(f"{name}: HDR (PQ) is not read; tone-map it to SDR first")
    with pillow_errors(name):
        image = _identified(data, cast("ImageFormat", kind), limits)
        n_frames = image.n_frames
    if n_frames > limits.max_frames:
        raise MediaError(f"{name}: {n_frames} frames; at most {limits.max_frames} are read")
    for part in image.parts:
        check_size(part.size, name, limits)
    check_size(image.reach, name, limits)
    return image


def _reads_avif() -> bool:
    return "avif" in PIL.features.modules and bool(PIL.features.check("avif"))


def _are_read() -> str:
    last = ", TIFF and AVIF" if _reads_avif() else " and TIFF"
    return f"PNG, JPEG, WebP, GIF, BMP{last} are read"


def _identified(data: bytes, kind: ImageFormat, limits: Limits) -> ImageFile:
    canvas_size, parts = (0, 0), ()
    if kind == "PNG":
        chunks = png_chunks(data)
        parts = png_parts(chunks)
        data = png_of(chunk for chunk in chunks if chunk[0] not in (b"acTL", b"fcTL", b"fdAT"))
    elif kind == "GIF":
        canvas_size, parts = gif_parts(data, limits.max_frames)
        data = parts[0].data
    try:
        base = PIL.Image.open(io.BytesIO(essential_bytes(data, kind)), formats=(kind,))
    except PIL.UnidentifiedImageError as error:
        raise ValueError("its header cannot be read") from error
    # Pillow would take the orientation from XMP where EXIF has none; browsers do not.
    base.info.pop("xmp", None)
    return ImageFile(base, kind, canvas_size if kind == "GIF" else base.size, parts)


def _required_image(file: ReadableFile, name: str, limits: Limits) -> ImageFile:
    image = identify_image(file, name, limits)
    if image is None:
        raise MediaError(f"{name}: not an image; {_are_read()}")
    return image


def upright_rgb(image: PILImage, orientation: int) -> PILImage:
    """Decode into a new RGB image: turned by an EXIF orientation, on white, without metadata."""
    image.load()
    if image.mode == "RGB" and not image.has_transparency_data:
        rgb = image.copy()
        rgb.info = {}
    else:
        rgb = PIL.Image.fromarray(on_white(_pixels(image)))
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def _orientation(image: PILImage) -> int:
    try:
        return cast("int", image.getexif().get(_EXIF_ORIENTATION, 1))
    except (*_BROKEN, Warning):
        return 1


def _pixels(image: PILImage) -> Pixels:
    """Decode into RGB of 8 bits, shape (H, W, 3), or (H, W, 4) with opacity."""
    image.load()
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        return _deep_grey(image)
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _deep_grey(image: PILImage) -> Pixels:
    """Scale grey of more than 8 bits to RGB, with opacity where a value is transparent."""
    values = np.asarray(image).astype(np.float64)
    tags = cast("dict[int, Any]", getattr(image, "tag_v2", {}))
    bits = 12 if tags.get(_TIFF_BITS) == (12,) else 16
    top = 1.0 if image.mode == "F" else 2.0**bits - 1
    if not (values.min() >= 0 and values.max() <= top):
        raise ValueError(
            f"grey values from {values.min():g} to {values.max():g}; "
            f"mode {image.mode} is read from 0 to {top:g}"
        )
    grey = np.rint(values * (255 / top)).astype(np.uint8)
    if tags.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO:  # Pillow inverts 8 bits alone
        grey = 255 - grey
    channels = [grey, grey, grey]
    if "transparency" in image.info:
        channels.append(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8))
    return np.stack(channels, axis=-1)


def array_rgb(array: NDArray[Any], layout: Layout | None, allowed: tuple[Layout, ...]) -> Pixels:
    """Convert an array of a declared layout to uint8 RGB, channels last."""
    name = describe(array)
    if layout not in allowed:
        raise MediaError(f"{name}: layout {layout} given; {' or '.join(allowed)} expected")
    if array.ndim != len(layout) or 0 in array.shape:
        raise MediaError(f"{name}: not a filled array of layout {layout}")
    pixels = np.moveaxis(array, layout.index("C"), -1)
    if pixels.shape[-1] not in (1, 3, 4):
        raise MediaError(
            f"{name}: layout {layout} makes that {pixels.shape[-1]} channels; 1, 3 or 4 expected"
        )
    if pixels.dtype != np.uint8:
        low, high = pixels.min(), pixels.max()
        # A NaN makes both comparisons false.
        if not (np.issubdtype(pixels.dtype, np.floating) and low >= 0 and high <= 1):
            raise MediaError(
                f"{name}: values from {low} to {high}; uint8, or float in [0, 1], expected"
            )
        pixels = np.rint(pixels.astype(np.float32) * 255).astype(np.uint8)
    return on_white(pixels)


def on_white(pixels: Pixels) -> Pixels:
    """Convert 1, 3 or 4 channels (the fourth is opacity) to three, blended with white."""
    if pixels.shape[-1] == 1:
        return np.repeat(pixels, 3, axis=-1)
    if pixels.shape[-1] == 4:
        rows = np.ascontiguousarray(pixels.reshape(-1, *pixels.shape[-2:]))
        image = PIL.Image.fromarray(rows)
        white = PIL.Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return np.array(white).reshape(*pixels.shape[:-1], 3)
    return np.ascontiguousarray(pixels)
