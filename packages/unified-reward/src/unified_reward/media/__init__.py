"""Pictures and clips: open, sample, resize, encode.

The only place that knows pixel ranges, layouts and codecs. What leaves it is 8-bit RGB, upright,
on white where the source was transparent. It does not know tasks, prompts or models, and opens
no network address.
"""

from unified_reward.media.encode import data_url, encode_mp4, encode_png, encode_webp_clip
from unified_reward.media.images import (
    LIMITS,
    Limits,
    Picture,
    Pixels,
    describe,
    fit_pixels,
    open_image,
)
from unified_reward.media.videos import (
    Choice,
    Clip,
    Rate,
    content_hash,
    frame_indices,
    kind,
    sample_frames,
    take_frames,
)


__all__ = [
    "LIMITS",
    "Choice",
    "Clip",
    "Limits",
    "Picture",
    "Pixels",
    "Rate",
    "content_hash",
    "data_url",
    "describe",
    "encode_mp4",
    "encode_png",
    "encode_webp_clip",
    "fit_pixels",
    "frame_indices",
    "kind",
    "open_image",
    "sample_frames",
    "take_frames",
]
