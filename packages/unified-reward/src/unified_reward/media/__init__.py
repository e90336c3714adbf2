"""Images and videos: open, sample, resize, encode.

The only package that knows pixel ranges, layouts and codecs. Everything it returns is 8-bit RGB,
upright, and on white where the source was transparent. It does not know tasks, prompts or models,
and opens no network address.
"""

from unified_reward.media.browsers import browser_video
from unified_reward.media.encode import (
    data_url,
    encode_lossless,
    encode_mp4,
    encode_png,
    encode_webp,
)
from unified_reward.media.files import LIMITS, Limits, PILImage, Pixels, describe
from unified_reward.media.images import fit_pixels, open_image, verify_image
from unified_reward.media.videos import (
    FrameChooser,
    FrameRate,
    SampledFrames,
    content_hash,
    frame_indices,
    frame_times,
    image_or_video,
    sample_frames,
    select_frames,
)


__all__ = [
    "LIMITS",
    "FrameChooser",
    "FrameRate",
    "Limits",
    "PILImage",
    "Pixels",
    "SampledFrames",
    "browser_video",
    "content_hash",
    "data_url",
    "describe",
    "encode_lossless",
    "encode_mp4",
    "encode_png",
    "encode_webp",
    "fit_pixels",
    "frame_indices",
    "frame_times",
    "image_or_video",
    "open_image",
    "sample_frames",
    "select_frames",
    "verify_image",
]
