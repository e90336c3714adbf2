"""Encode images and videos without loss, as the bytes of a file."""

from __future__ import annotations

import base64
import io
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image

from unified_reward.core.errors import MediaError
from unified_reward.core.samples import Image, Video
from unified_reward.media.files import PILImage, Pixels, describe
from unified_reward.media.images import open_image, pillow_errors
from unified_reward.media.videos import frame_times, select_frames


DEFAULT_FPS = 8.0
"""Frames per second of a video in memory that has no rate of its own."""


def encode_lossless(medium: Image | Video) -> tuple[bytes, str]:
    """Encode an image as PNG, or a video as lossless MP4; see `encode_mp4`.

    Args:
        medium: An image or video of any source. A video without a rate gets 8 frames per second.

    Returns:
        The bytes of a file, and its suffix, ``.png`` or ``.mp4``.

    Raises:
        MediaError: The medium cannot be read.
    """
    if isinstance(medium, Image):
        return encode_png(open_image(medium)), ".png"
    pixels, fps = all_frames(medium)
    return encode_mp4(pixels, fps), ".mp4"


def all_frames(video: Video) -> tuple[Pixels, float]:
    """Every frame of a video, shape (n, height, width, 3), and its rate in frames per second.

    Raises:
        MediaError: The video cannot be read.
    """
    pixels = select_frames(video, lambda n, _: tuple(range(n))).pixels
    if video.fps and not isinstance(video.source, str | Path | bytes):
        return pixels, video.fps
    times = frame_times(video)
    span = times[-1] - times[0] if times else 0.0
    return pixels, (len(times) - 1) / span if span > 0 else DEFAULT_FPS


def encode_png(image: PILImage) -> bytes:
    """Encode an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def data_url(
    image: PILImage, image_format: Literal["png", "jpeg", "webp"] = "png", *, quality: int = 95
) -> str:
    """Encode an image as a ``data:image/png;base64,...`` URL.

    Args:
        image: Any image; as jpeg and webp, which are lossy, it is sent as RGB on white.
        image_format: Encoding.
        quality: Of jpeg and webp, 1 to 100.

    Raises:
        MediaError: The image is too large for the format, or broken.
    """
    if image_format == "png":
        content = encode_png(image)
    else:
        buffer = io.BytesIO()
        with pillow_errors(f"as {image_format}, {describe(image)}"):
            # JPEG with all of the colour: half of it is lost by default.
            open_image(image).save(buffer, image_format, quality=quality, subsampling=0)
        content = buffer.getvalue()
    return f"data:image/{image_format};base64," + base64.b64encode(content).decode("ascii")


def encode_mp4(pixels: Pixels, fps: float) -> bytes:
    """Encode a video as lossless H.264: decoding gives back the same pixels.

    Players and ``sample_frames`` read lossless RGB; browsers do not.

    Args:
        pixels: RGB, uint8, shape (n, height, width, 3), n >= 1; odd sizes are fine.
        fps: Frames per second, > 0.

    Raises:
        MediaError: Wrong dtype or shape, or ``fps`` is not positive.
    """
    import av

    _check_writable(pixels, fps)
    buffer = io.BytesIO()
    # Any: the stubs of PyAV leave the types of its packets open.
    output: Any = av.open(buffer, "w", format="mp4")
    with output as container:
        # One thread: the bytes, and so their hash, must not depend on the machine.
        options = {"qp": "0", "preset": "veryfast", "threads": "1"}
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264rgb", rate=rate, options=options)
        _, stream.height, stream.width, _ = pixels.shape
        stream.pix_fmt = "rgb24"
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def encode_webp(pixels: Pixels, fps: float) -> bytes:
    """Encode a video as a lossless animated WebP that repeats forever, for HTML pages.

    Equal neighbouring frames become one of longer duration, so do not sample frames from it.

    Args:
        pixels: RGB, uint8, shape (n, height, width, 3), n >= 1.
        fps: Frames per second, > 0.

    Raises:
        MediaError: Wrong dtype or shape, or ``fps`` is not positive.
    """
    _check_writable(pixels, fps)
    frames = [PIL.Image.fromarray(frame) for frame in pixels]
    # WebP counts whole milliseconds; rounding the instants keeps the video from drifting.
    instants = [round(1000 * i / fps) for i in range(len(frames) + 1)]
    durations = [end - start for start, end in pairwise(instants)]
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=0,
        lossless=True,
    )
    return buffer.getvalue()


def _check_writable(pixels: Pixels, fps: float) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3 or 0 in pixels.shape:
        raise MediaError(
            f"{describe(pixels)}: uint8 of shape (n, height, width, 3), n >= 1, expected"
        )
    if not fps > 0:
        raise MediaError(f"a video cannot have {fps} frames per second; give more than 0")
