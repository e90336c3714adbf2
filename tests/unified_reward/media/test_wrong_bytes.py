"""Files with wrong bytes never raise anything but a media error."""

from contextlib import suppress

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unified_reward.core.errors import MediaError
from unified_reward.media import Limits, encode_mp4, open_image, sample_frames

from .clips import clip_of, frame_of
from .made import file_of, grey_steps, noise, picture


def valid_files():
    still = picture(noise(12, 10, 3))
    frames = [picture(frame) for frame in grey_steps(3)]
    animated = [
        file_of(frames[0], fmt, save_all=True, append_images=frames[1:])
        for fmt in ("GIF", "WEBP", "PNG", "AVIF")
    ]
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    turned = file_of(still, "JPEG", exif=exif.tobytes())
    stills = [file_of(still, fmt) for fmt in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")]
    frame = frame_of(np.full((32, 32, 3), 128), "yuva420p", np.full((32, 32), 99))
    clear = clip_of([frame], "webm", "libvpx-vp9", {"lossless": "1"}, turn=90)
    return [*stills, turned, *animated, encode_mp4(grey_steps(3), 8), clear]


VALID_FILES = valid_files()


@settings(max_examples=200, deadline=None)
@given(st.data())
@pytest.mark.filterwarnings("ignore")
def test_a_file_with_wrong_bytes_is_read_or_is_a_media_error(data):
    original = bytearray(data.draw(st.sampled_from(VALID_FILES)))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(original) - 1))
        original[place] = data.draw(st.integers(0, 255))
    small = Limits(max_pixels=1_000_000)
    for read in (open_image, lambda file, *, limits: sample_frames(file, 2, limits=limits)):
        with suppress(MediaError):
            assert read(bytes(original), limits=small) is not None
