"""Files written here are read back exactly."""

import base64

import numpy as np
import pytest

from unified_reward.core.errors import MediaError
from unified_reward.media import data_url, encode_mp4, encode_webp, open_image, sample_frames

from .made import CARD, grey_steps, noise, picture


@pytest.mark.parametrize("size", [(16, 16), (15, 17), (1, 1)])
def test_an_mp4_written_here_is_read_back_exactly(size):
    pixels = noise(5, *size, 3)
    video = sample_frames(encode_mp4(pixels, 8), 5, "stride_floor")
    np.testing.assert_array_equal(video.pixels, pixels)
    assert video.times_s == (0, 0.125, 0.25, 0.375, 0.5)


def test_an_mp4_has_the_same_bytes_every_time():
    assert encode_mp4(grey_steps(3), 8) == encode_mp4(grey_steps(3), 8)


def test_an_animated_webp_is_read_back_exactly_and_does_not_drift():
    """At 30 frames per second, frame 3 stands at 100 ms and not at 3 * 33 = 99."""
    pixels = noise(4, 6, 5, 3)
    video = sample_frames(encode_webp(pixels, 30), 4, "stride_floor")
    np.testing.assert_array_equal(video.pixels, pixels)
    assert video.times_s == (0, 0.033, 0.067, 0.1)


@pytest.mark.parametrize("encode", [encode_mp4, encode_webp])
def test_only_proper_videos_are_written(encode):
    with pytest.raises(MediaError, match=r"float64 array .* uint8 of shape"):
        encode(np.zeros((1, 2, 2, 3)), 8)
    with pytest.raises(MediaError, match=r"uint8 of shape"):
        encode(np.zeros((0, 2, 2, 3), np.uint8), 8)
    with pytest.raises(MediaError, match="cannot have 0 frames per second"):
        encode(grey_steps(1), 0)


def test_a_data_url_holds_the_image():
    head, body = data_url(picture(CARD)).split(",")
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(open_image(base64.b64decode(body))), CARD)
