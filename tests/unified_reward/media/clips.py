"""Videos of known code values: what was encoded, and the colours it stands for."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest


LUMA = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Shares of red and blue in the luma of AVCOL_SPC BT.709, SMPTE 170M and BT.2020."""
BT709, BT601, BT2020 = LUMA
LIMITED, FULL = 1, 2


def rgb_of(codes, bits, matrix, color_range):
    """Colours 0 to 255 of luma and chroma codes, shape (..., 3), as ITU-R BT.709 defines them."""
    y, u, v = np.moveaxis(np.asarray(codes, float), -1, 0)
    step = 2 ** (bits - 8)
    if color_range == FULL:
        top = 2**bits - 1
        y, u, v = y / top, (u - 128 * step) / top, (v - 128 * step) / top
    else:
        y, u, v = (y - 16 * step) / (219 * step), *((c / step - 128) / 224 for c in (u, v))
    kr, kb = LUMA[matrix]
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(255 * np.stack([red, green, blue], -1), 0, 255)


def codes_of(rgb, bits, matrix, color_range):
    """Nearest luma and chroma codes of colours 0 to 255, shape (..., 3)."""
    red, green, blue = np.moveaxis(np.asarray(rgb, float) / 255, -1, 0)
    kr, kb = LUMA[matrix]
    y = kr * red + (1 - kr - kb) * green + kb * blue
    u, v = (blue - y) / (2 * (1 - kb)), (red - y) / (2 * (1 - kr))
    step = 2 ** (bits - 8)
    if color_range == FULL:
        top = 2**bits - 1
        codes = [y * top, u * top + 128 * step, v * top + 128 * step]
    else:
        codes = [(16 + 219 * y) * step, (128 + 224 * u) * step, (128 + 224 * v) * step]
    return np.clip(np.rint(np.stack(codes, -1)), 0, 2**bits - 1).astype(int)


def frame_of(codes, pix_fmt, opacity=None):
    """A frame with these codes, shape (h, w, 3); chroma is that of every first pixel."""
    height, width = codes.shape[:2]
    frame = av.VideoFrame(width, height, pix_fmt)
    channels = [*np.moveaxis(codes, -1, 0), *([] if opacity is None else [opacity])]
    wide = frame.format.components[0].bits > 8
    for plane, channel in zip(frame.planes, channels, strict=False):
        values = channel[:: -(-height // plane.height), :: -(-width // plane.width)]
        raw = values.astype("<u2" if wide else np.uint8).view(np.uint8).reshape(plane.height, -1)
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : raw.shape[1]] = raw
        plane.update(rows.tobytes())
    return frame


def clip_of(
    frames,
    container,
    codec,
    options,
    *,
    instants=None,
    shape=None,
    turn=None,
    matrix=None,
    color_range=None,
    **tags,
):
    """Encode frames; ``instants`` are tenths of a second, ``turn`` degrees counter-clockwise."""
    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no encoder {codec}")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=10, options=options)
        context = stream.codec_context
        stream.width, stream.height = frames[0].width, frames[0].height
        stream.pix_fmt = frames[0].format.name
        if shape:
            context.sample_aspect_ratio = Fraction(shape)
        if matrix:
            context.colorspace = matrix
        if color_range:
            context.color_range = color_range
        for name, value in tags.items():
            setattr(context, name, value)
        if turn:
            stream.set_display_rotation(turn)
        for instant, frame in zip(instants or range(len(frames)), frames, strict=True):
            frame.pts, frame.time_base = instant, Fraction(1, 10)
            if color_range:
                frame.color_range = color_range
            if matrix:
                frame.colorspace = matrix
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()
