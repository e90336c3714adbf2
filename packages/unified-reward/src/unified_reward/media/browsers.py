"""Videos as every browser plays them, without the metadata of their files."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from unified_reward.core.errors import MediaError
from unified_reward.core.samples import Video
from unified_reward.media.encode import all_frames
from unified_reward.media.files import LIMITS, Pixels, describe, open_file
from unified_reward.media.images import identify_image
from unified_reward.media.videos import open_stream, sample_frames


MAX_PIXELS = 2**28
"""Pixels of all frames of a video that is converted, such as 129 frames of 1920x1080."""
_CONTAINERS = {"h264": "mp4", "vp8": "webm", "vp9": "webm", "av1": "webm"}
_FORMATS = ("yuv420p", "yuvj420p")
_BT709 = 1  # AVCOL_SPC, AVCOL_PRI and AVCOL_TRC alike
_LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG


def browser_video(video: Video) -> tuple[bytes, str]:
    """Convert a video to one that browsers play: MP4 (H.264) or WebM.

    Coded frames that browsers read are copied as they are; others are encoded as H.264, with at
    most one row and one column more, since its sizes are even. Sound and metadata, which may name
    the generator, are left out. All frames are decoded, so that a broken file is an error.

    Args:
        video: A file, an animation, or frames; without a rate they get 8 frames per second.

    Returns:
        The bytes of a file, and their media type.

    Raises:
        MediaError: The video is broken, or has too many pixels to be converted.
    """
    first = sample_frames(video, 1)
    copied = _copied(video.source) if isinstance(video.source, str | Path | bytes) else None
    if copied:
        return copied
    n_frames, (height, width) = first.n_source, first.pixels.shape[1:3]
    if n_frames * height * width > MAX_PIXELS:
        raise MediaError(
            f"{describe(video)}: {n_frames} frames of {width}x{height} are too many to convert for "
            "browsers; give it as MP4 (H.264, yuv420p)"
        )
    return _encoded(*all_frames(video)), "video/mp4"


def _copied(source: str | Path | bytes) -> tuple[bytes, str] | None:
    """Copy the coded frames into a new file; None if not every browser reads them."""
    import av

    name = describe(source)
    with open_file(source, LIMITS) as file:
        if identify_image(file, name, LIMITS):
            return None
        with open_stream(file, name, LIMITS) as (container, stream):
            codec = stream.codec_context
            kind = _CONTAINERS.get(codec.name)
            is_opaque = stream.metadata.get("alpha_mode") != "1"
            if kind is None or codec.pix_fmt not in _FORMATS or not is_opaque:
                return None
            if next(container.decode(stream)).side_data.get("DISPLAYMATRIX"):
                return None  # the copy would lie on its side
            container.seek(0)
            buffer = io.BytesIO()
            # Any: the stubs of PyAV leave the types of its packets open.
            writer: Any = av.open(buffer, "w", format=kind)
            with writer as output:
                target = output.add_stream_from_template(stream)
                for packet in container.demux(stream):
                    if packet.size:
                        packet.stream = target
                        output.mux(packet)
    return buffer.getvalue(), f"video/{kind}"


def _encoded(pixels: Pixels, fps: float) -> bytes:
    import av
    from av.video.reformatter import VideoReformatter

    _, height, width, _ = pixels.shape
    even = np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
    buffer = io.BytesIO()
    # Any: the stubs of PyAV leave the types of its packets open.
    output: Any = av.open(buffer, "w", format="mp4")
    with output as container:
        options = {"crf": "14", "preset": "veryfast"}
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = even.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
        reformatter = VideoReformatter()
        for frame in even:
            rgb = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(
                stream.encode(
                    reformatter.reformat(
                        rgb, format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED_RANGE
                    )
                )
            )
        container.mux(stream.encode())
    return buffer.getvalue()
