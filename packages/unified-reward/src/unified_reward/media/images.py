"""Open an image from a path, bytes, a PIL image or an array.

Formats are recognised by content, never by suffix. Colour profiles are not applied: every image
is taken to be sRGB. Knows nothing of videos beyond the array layouts both share.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from unified_reward.core.errors import ConfigError, MediaError
from unified_reward.core.samples import Image, Layout, Video


PILImage = PIL.Image.Image
"""An opened image; `Image` of `core.samples` is one that may still lie in a file."""
Pixels = NDArray[np.uint8]
ReadableFile = io.BytesIO | io.BufferedReader

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# What Pillow's plugins let through when a file is broken; these have no common base.
_BROKEN = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    LookupError,
    struct.error,
    zlib.error,
)
_EXIF_ORIENTATION = 0x0112
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
class Limits:
    """Largest media that are opened; checked before anything is decoded."""

    max_pixels: int = 64 * 1024 * 1024
    """Width times height of an image or a frame. Pillow itself refuses more than about 179 million
    pixels, whatever is set here."""
    max_bytes: int = 512 * 1024 * 1024
    """Size of the file in bytes."""


LIMITS = Limits()


def open_image(
    image: Image | str | Path | bytes | PILImage, *, limits: Limits = LIMITS
) -> PILImage:
    """Open an image as upright 8-bit RGB.

    PNG, JPEG, BMP and the first frame of WebP, GIF and TIFF are read. EXIF orientation is
    applied, transparency is laid on white, 16-bit grey is scaled (65535 becomes 255).

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
            decoded = _identified(file, name, limits)
            with pillow_errors(name):
                return upright_rgb(decoded)
    if isinstance(source, PILImage):
        check_size(source.size, name, limits)
        with pillow_errors(name):
            return upright_rgb(source)
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
        image = _identified(file, name, LIMITS)
        with pillow_errors(name):
            image.verify()


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


def describe(source: object) -> str:
    """Short name of media in error messages.

    >>> describe(b"12345"), describe(Image("cat.png"))
    ('<5 bytes>', 'cat.png')
    """
    if isinstance(source, Image | Video):
        source = cast("object", source.source)
    if isinstance(source, str | Path):
        return str(source)
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


@contextmanager
def open_file(source: str | Path | bytes, limits: Limits) -> Generator[ReadableFile]:
    """Open a file or bytes for reading, refusing what is missing, empty or too large."""
    name = describe(source)
    try:
        file = _reader(source)
    except OSError as error:
        raise MediaError(f"{name}: cannot be opened: {error.strerror}") from error
    with file:
        n_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        if n_bytes == 0:
            raise MediaError(f"{name}: the file is empty")
        if n_bytes > limits.max_bytes:
            raise MediaError(f"{name}: {n_bytes} bytes; at most {limits.max_bytes} are read")
        yield file


def _reader(source: str | Path | bytes) -> ReadableFile:
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")


@contextmanager
def pillow_errors(name: str) -> Generator[None]:
    """Turn every exception of Pillow on a broken file into a MediaError that names the file."""
    try:
        yield
    except _BROKEN as error:
        raise MediaError(f"{name}: the image is broken: {error}") from error
    # Pillow has a limit of its own, and raises before the size is known.
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise MediaError(f"{name}: too many pixels: {error}") from error


def identify_image(file: ReadableFile, name: str, limits: Limits) -> PILImage | None:
    """Read the header of an image and check its size; None if the file is not an image."""
    with pillow_errors(name):
        try:
            image = PIL.Image.open(file, formats=_FORMATS)
        except PIL.UnidentifiedImageError:
            return None
    check_size(image.size, name, limits)
    return image


def _identified(file: ReadableFile, name: str, limits: Limits) -> PILImage:
    image = identify_image(file, name, limits)
    if image is None:
        raise MediaError(f"{name}: not an image; PNG, JPEG, WebP, GIF, BMP and TIFF are read")
    return image


def check_size(size: tuple[int, int], name: str, limits: Limits) -> None:
    """Refuse an image or a frame with too many pixels, or none."""
    width, height = size
    if not 0 < width * height <= limits.max_pixels:
        raise MediaError(
            f"{name}: {width}x{height} pixels; between 1 and {limits.max_pixels} are read"
        )


def upright_rgb(image: PILImage) -> PILImage:
    """Decode into a new RGB image: EXIF orientation applied, on white, without metadata."""
    image.load()
    orientation = cast("int", image.getexif().get(_EXIF_ORIENTATION, 1))
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        rgb = PIL.Image.fromarray(_on_white(_deep_grey(image)))
    elif image.has_transparency_data:
        rgb = PIL.Image.fromarray(_on_white(np.asarray(image.convert("RGBA"))))
    else:
        rgb = image.convert("RGB")
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    # Left in place, the EXIF would turn the image again when it is opened again.
    rgb.info = {}
    return rgb


def _deep_grey(image: PILImage) -> Pixels:
    """Scale grey of more than 8 bits to 8, shape (H, W, 1); the transparent value becomes white."""
    values = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if not (values.min() >= 0 and values.max() <= top):
        raise ValueError(
            f"grey values from {values.min():g} to {values.max():g}; "
            f"mode {image.mode} is read from 0 to {top:g}"
        )
    grey = np.rint(values * (255 / top))
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return grey.astype(np.uint8)[..., None]


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
    return _on_white(pixels)


def _on_white(pixels: Pixels) -> Pixels:
    """Convert 1, 3 or 4 channels (the fourth is opacity) to three, blended with white."""
    if pixels.shape[-1] == 1:
        return np.repeat(pixels, 3, axis=-1)
    if pixels.shape[-1] == 4:
        opacity = pixels[..., 3:].astype(np.uint16)
        # 255 * 255 + 127 still fits 16 bits.
        blend = pixels[..., :3] * opacity + 255 * (255 - opacity) + 127
        return (blend // 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)
