"""Mutated images, read by ``media`` and, independently, by Pillow and numpy."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import av
import numpy as np
import PIL.Image
import PIL.PngImagePlugin
from numpy.typing import NDArray

from benchmarks.fuzz.kind import WrongReadError
from benchmarks.fuzz.mutate import Chunk, mutate_media, png, png_chunks
from unified_reward import media
from unified_reward.core.errors import MediaError
from unified_reward.core.samples import Image


SHARE = 28
TOLERANCE = 1
"""Of 255: rounding of a blend or of 16 bits."""
_ORIENTATION = 0x0112
_REFUSED = "PPM", "ICO", "TGA", "JPEG2000"
_LIMITS = media.Limits(max_pixels=2**22)
"""Small, so that no input takes long."""
_PIXELS = b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf"
_Array = NDArray[Any]


def picture(width: int = 29, height: int = 18, bands: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth gradient with some noise, no two sides of it alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    layers = [
        x * 255 / width,
        y * 255 / height,
        (x + y) * 255 / (width + height),
        255 - x * 9 % 256,
    ]
    noise = rng.integers(0, 20, (height, width, bands))
    return np.clip(np.stack(layers[:bands], -1) + noise, 0, 255).astype(np.uint8)


def _saved(image: PIL.Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _exif(orientation: int) -> bytes:
    exif = PIL.Image.Exif()
    exif[_ORIENTATION] = orientation
    return exif.tobytes()


def _png(pixels: _Array, depth: int, colour: int, *, interlaced: bool = False) -> bytes:
    """A PNG as Pillow cannot write it: 16 bits of colour, or interlaced."""
    height, width = pixels.shape[:2]
    steps = [(0, 0, 1, 1)]
    if interlaced:
        steps = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)]
        steps += [(0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = b""
    for left, top, right, down in steps:
        part = pixels[top::down, left::right]
        if part.size:
            kind = ">u2" if depth == 16 else "u1"
            raw += b"".join(b"\0" + row.astype(kind).tobytes() for row in part)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    return png([(b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")])


def _apng(*, default_image: bool, n: int = 3) -> bytes:
    first, *others = [PIL.Image.fromarray(picture(seed=i)) for i in range(n + default_image)]
    return _saved(
        first,
        "PNG",
        save_all=True,
        append_images=others,
        default_image=default_image,
        duration=[100 * (i + 1) for i in range(n)],
    )


def _png_seeds() -> list[bytes]:
    rgb, rgba = PIL.Image.fromarray(picture()), PIL.Image.fromarray(picture(bands=4))
    palette, grey = rgb.quantize(16), rgb.convert("L")
    deep = (picture(bands=3).astype(np.uint32) * 257).astype(np.uint16)
    long, lat = PIL.PngImagePlugin.PngInfo(), PIL.PngImagePlugin.PngInfo()
    long.add_text("workflow", "x" * 1_200_000, zip=True)
    lat.add_itxt("Title", "é", "en", "Titel")
    return [
        *(_saved(one, "PNG") for one in (rgb, rgba, grey, palette, rgb.convert("1"))),
        _saved(rgba.convert("LA"), "PNG"),
        _saved(palette, "PNG", transparency=3),
        _saved(palette, "PNG", transparency=bytes(range(0, 256, 16))),
        _saved(rgb, "PNG", transparency=tuple(map(int, picture()[4, 4]))),
        _saved(grey, "PNG", transparency=120),
        _saved(PIL.Image.fromarray(deep[..., 0]), "PNG"),
        _saved(rgb, "PNG", exif=_exif(6), pnginfo=lat),
        _saved(rgb, "PNG", exif=b"Exif\0\0XXXX" + _exif(1)[6:]),
        _saved(rgb, "PNG", pnginfo=long),
        _png(deep, 16, 2),
        _png(picture(bands=4).astype(np.uint16) * 257, 16, 6),
        _png(picture(), 8, 2, interlaced=True),
        _png(deep[..., 0], 16, 0, interlaced=True),
        *(_saved(rgb, form, icc_profile=b"no profile" * 9) for form in ("PNG", "JPEG", "WEBP")),
        *(_saved(rgb.quantize(n), "PNG", bits=bits) for n, bits in ((2, 1), (4, 2))),
        *(_apng(default_image=hidden, n=n) for hidden in (False, True) for n in (1, 3)),
    ]


def _jpeg_seeds() -> list[bytes]:
    rgb = PIL.Image.fromarray(picture())
    return [
        _saved(rgb, "JPEG", quality=95),
        _saved(rgb, "JPEG", progressive=True),
        _saved(rgb.convert("L"), "JPEG"),
        _saved(rgb.convert("CMYK"), "JPEG"),
        *(_saved(rgb, "JPEG", exif=_exif(orientation)) for orientation in (2, 3, 5, 6, 7, 8)),
        _saved(rgb, "JPEG", exif=b"Exif\0\0XXXX"),
        _saved(rgb, "JPEG", subsampling=0, restart_marker_blocks=1),
    ]


def _other_seeds() -> list[bytes]:
    rgb, rgba = PIL.Image.fromarray(picture()), PIL.Image.fromarray(picture(bands=4))
    frames = [PIL.Image.fromarray(picture(seed=i)) for i in range(4)]
    clear = [PIL.Image.fromarray(picture(bands=4, seed=i)) for i in range(3)]
    deep = PIL.Image.fromarray(picture()[..., 0].astype(np.uint16) * 257)
    depth = PIL.Image.fromarray(picture()[..., 0].astype(np.float32) / 255)
    moving = {"save_all": True, "append_images": frames[1:], "duration": 120}
    seeds = [
        _saved(rgb, "WEBP", quality=80),
        _saved(rgba, "WEBP", lossless=True),
        _saved(rgb, "WEBP", lossless=True, exif=_exif(8)),
        _saved(rgb, "WEBP", exif=b"Exif\0\0XXXX"),
        _saved(frames[0], "WEBP", **moving),
        _saved(clear[0], "WEBP", save_all=True, append_images=clear[1:], lossless=True, duration=0),
        _saved(rgb, "GIF"),
        _saved(rgb.quantize(8), "GIF", transparency=2),
        _saved(frames[0], "GIF", **moving, loop=0),
        _saved(frames[0].quantize(8), "GIF", **moving, disposal=2, transparency=1),
        *(_saved(rgb.convert(mode), "BMP") for mode in ("RGB", "L", "1", "P")),
        _saved(rgba, "BMP"),
        *(_saved(rgb, "TIFF", compression=name) for name in ("raw", "tiff_lzw", "tiff_deflate")),
        *(
            _saved(rgb, "TIFF", compression=name)
            for name in ("jpeg", "packbits", "tiff_adobe_deflate")
        ),
        _saved(rgb.convert("1"), "TIFF", compression="group4"),
        *(_saved(rgb.convert(mode), "TIFF") for mode in ("YCbCr", "LAB", "L")),
        _saved(rgb.quantize(200), "GIF", interlace=True, comment=b"c" * 300),
        *(_saved(one, "TIFF") for one in (rgba, rgb.convert("CMYK"), rgb.quantize(8), deep, depth)),
        _saved(rgb, "TIFF", tiffinfo={_ORIENTATION: 6}),
        _saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
    ]
    if "AVIF" in PIL.Image.SAVE or PIL.features.check("avif"):
        seeds += [
            _saved(rgb, "AVIF", quality=90),
            _saved(rgba, "AVIF"),
            _saved(rgb, "AVIF", exif=_exif(6)),
            _saved(frames[0], "AVIF", **moving),
        ]
    return seeds


@contextmanager
def _patient_pillow() -> Iterator[None]:
    """Let Pillow read long texts beside a picture, and say where it refuses one."""
    plugin = PIL.PngImagePlugin
    limits = plugin.MAX_TEXT_CHUNK, plugin.MAX_TEXT_MEMORY
    plugin.MAX_TEXT_CHUNK, plugin.MAX_TEXT_MEMORY = 2**26, 2**28
    try:
        yield
    except Exception as error:
        raise WrongReadError(f"read, but Pillow refuses it: {error!r:.120}") from error
    finally:
        plugin.MAX_TEXT_CHUNK, plugin.MAX_TEXT_MEMORY = limits


def reference(data: bytes, most: int = 1000) -> list[_Array]:
    """Frames of an image as upright RGB on white, by Pillow's own functions.

    The image that stands apart from the animation of an APNG is not one of them.
    """
    frames: list[_Array] = []
    with _patient_pillow():
        image = PIL.Image.open(io.BytesIO(_without_hidden_image(data)))
        moving = most > 1 and image.format in ("GIF", "WEBP", "PNG", "AVIF")
        for i in range(getattr(image, "n_frames", 1) if moving else 1):
            if i:
                image.seek(i)
            image.load()
            frames.append(_upright(image))
    return frames


def _without_hidden_image(data: bytes) -> bytes:
    """Make the first frame of an APNG its image, where another one stands before it."""
    chunks = png_chunks(data) if data.startswith(b"\x89PNG") else []
    names = [name for name, _ in chunks]
    order = [names.index(name) for name in (b"acTL", b"IDAT", b"fcTL") if name in names]
    if len(order) < 3 or order != sorted(order) or not any(chunks[order[0]][1][:4]):
        return data
    made: list[Chunk] = []
    n_controls = n_numbered = 0
    for name, body in chunks:
        n_controls += name == b"fcTL"
        if name == b"fdAT" and n_controls == 1:
            made.append((b"IDAT", body[4:]))
        elif name in (b"fcTL", b"fdAT"):
            made.append((name, n_numbered.to_bytes(4, "big") + body[4:]))
            n_numbered += 1
        elif name != b"IDAT":
            made.append((name, body))
    return png(made)


def _upright(image: PIL.Image.Image) -> _Array:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  an EXIF block that cannot be read says nothing
        orientation = 1
    pixels = _on_white(image)
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _on_white(image: PIL.Image.Image) -> _Array:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image, np.float64)
        clear = image.info.get("transparency")
        grey = values * 255 / (1 if image.mode == "F" else 65535)
        if clear is not None:
            grey[values == clear] = 255
        return np.repeat(grey[..., None], 3, -1)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"), np.float64)
    rgba = np.asarray(image.convert("RGBA"), np.float64)
    opacity = rgba[..., 3:] / 255
    return rgba[..., :3] * opacity + 255 * (1 - opacity)


def check_equal(got: Any, wanted: Any, name: str, tolerance: float = TOLERANCE) -> None:
    """Hold pixels against those of the reference."""
    if got.shape != wanted.shape:
        raise WrongReadError(f"{name}: shape {got.shape}, the reference has {wanted.shape}")
    most = float(np.abs(got.astype(np.float64) - wanted).max())
    if not most <= tolerance:
        raise WrongReadError(f"{name}: off by up to {most:.1f} of 255")


def check_frames(got: Sequence[_Array], data: bytes, n_source: int) -> None:
    """Hold frames that are spread over a whole file against Pillow, and where it differs, others.

    FFmpeg is one; and the pixels of a PNG are right whatever stands around them.
    """
    wanted: list[_Array] = []
    try:
        wanted = reference(data, n_source)
        if n_source != len(wanted) or (n_source > 1 and len(reference(data)) != n_source):
            raise WrongReadError(f"{n_source} frames, the reference has {len(reference(data))}")
        places = np.linspace(0, n_source - 1, len(got)).astype(int)
        for i, pixels in zip(places, got, strict=True):
            check_equal(pixels, wanted[i], f"frame {i}")
    except WrongReadError:
        others = [*wanted, *_ffmpeg_frames(data), *_bare_png(data), *_turned(data)]
        if not all(any(map(partial(_is_equal, pixels), others)) for pixels in got):
            raise


def _is_equal(got: _Array, wanted: _Array) -> bool:
    if got.shape != wanted.shape:
        return False
    off = np.abs(got - wanted).max(-1) > TOLERANCE
    # What the data of a GIF, or a frame on its canvas, leave out is white, or its first colour.
    return bool((got[off] == 255).all() and len(np.unique(wanted[off], axis=0)) <= 1)


def _ffmpeg_frames(data: bytes) -> list[_Array]:
    """Frames as FFmpeg reads the file, until it breaks off."""
    frames: list[_Array] = []
    try:
        with av.open(io.BytesIO(data), metadata_errors="ignore") as container:
            for frame in container.decode(video=0):
                frames.append(_on_white(PIL.Image.fromarray(frame.to_ndarray(format="rgba"))))
    except (av.error.FFmpegError, OSError, IndexError):
        pass
    return frames


def _bare_png(data: bytes) -> list[_Array]:
    """The image of a PNG without anything around it, and without chunks of a wrong checksum."""
    if not data.startswith(b"\x89PNG"):
        return []
    chunks = [chunk for chunk in png_chunks(data, whole=True) if chunk[0] in _PIXELS]
    with suppress(WrongReadError):
        return reference(png([*chunks, (b"IEND", b"")]), 1)
    return []


def _turned(data: bytes) -> list[_Array]:
    """All ways in which an image can stand, where its EXIF block is spoiled."""
    if not (b"Exif" in data or b"eXIf" in data or b"EXIF" in data):
        return []
    with suppress(WrongReadError):
        upright = reference(data, 1)[0]
        both = upright, upright.transpose(1, 0, 2)
        return [one[::y, ::x] for one in both for y in (1, -1) for x in (1, -1)]
    return []


class Images:
    """Images of every format and their animations."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sound = [*_png_seeds(), *_jpeg_seeds(), *_other_seeds()]
        others = [_saved(PIL.Image.fromarray(picture()), form) for form in _REFUSED]
        self.seeds = [*self.sound, *others]

    def check(self, rng: Random) -> bool:
        """Open, verify, classify, sample and hash one image."""
        seed = rng.choice(self.seeds)
        data = mutate_media(seed, rng, self.seeds)
        if not data:
            data = b"\0"
        source = data if rng.random() < 0.8 else self._file(data)
        is_sound = data == seed and seed in self.sound
        opened = self._open(source)
        for look in (media.verify_image, media.image_or_video):
            try:
                look(source)
            except MediaError:
                if is_sound:
                    raise WrongReadError(f"{look.__name__} refuses a sound file") from None
        self._check_hash(source, data)
        frames = self._check_frames(source, data)
        if opened is None:
            if is_sound:
                raise WrongReadError("a sound image is refused")
            return frames
        check_frames([np.asarray(opened)], data, 1)
        return True

    def _file(self, data: bytes) -> Path:
        path = self.folder / "image.png"
        path.write_bytes(data)
        return path

    def _open(self, source: bytes | Path) -> PIL.Image.Image | None:
        try:
            return media.open_image(source, limits=_LIMITS)
        except MediaError:
            return None

    def _check_hash(self, source: bytes | Path, data: bytes) -> None:
        if media.content_hash(Image(source)) != hashlib.sha256(data).hexdigest():
            raise WrongReadError("content_hash is not that of the bytes")

    def _check_frames(self, source: bytes | Path, data: bytes) -> bool:
        """Sample up to three frames; of what is no image only tracebacks are looked for."""
        try:
            sampled = media.sample_frames(source, 3, limits=_LIMITS)
        except MediaError:
            return False
        try:
            image = PIL.Image.open(io.BytesIO(data))
        except Exception:  # noqa: BLE001  FFmpeg may know it; the clips are held against that
            return True
        if image.format not in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
            return True
        check_frames(sampled.pixels, data, sampled.n_source)
        return True
