"""Videos that browsers play: colours and times stay, metadata does not."""

import io
import struct

import av
import numpy as np
import pytest

from unified_reward import media
from unified_reward.core.errors import MediaError
from unified_reward.core.samples import Image, Video
from unified_reward.media import browser_video, browsers, encode_mp4, encode_webp, sample_frames

from .made import grey_steps, picture


def bars(n=5, height=33, width=41):
    """A bar that moves over two plain colours; sizes are odd."""
    pixels = np.zeros((n, height, width, 3), np.uint8)
    pixels[..., 0], pixels[:, : height // 2, :, 1] = 200, 90
    for i in range(n):
        pixels[i, :, 4 * i : 4 * i + 8] = 255
    return pixels


def written(pixels, codec, container):
    """A file of a codec, with the name of a generator in its metadata."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        output.metadata["comment"] = "secret-generator"
        stream = output.add_stream(codec, rate=8)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in pixels:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    return buffer.getvalue()


def codec_of(content):
    with av.open(io.BytesIO(content)) as container:
        context = container.streams.video[0].codec_context
        return context.name, context.pix_fmt


@pytest.mark.parametrize("encode", [encode_mp4, encode_webp])
def test_a_video_that_browsers_do_not_play_is_encoded_with_its_colours_and_times(encode):
    pixels = bars()
    content, media_type = browser_video(Video(encode(pixels, 8)))
    assert (codec_of(content), media_type) == (("h264", "yuv420p"), "video/mp4")
    video = sample_frames(content, 5)
    assert video.pixels.shape == (5, 34, 42, 3), "sizes are even"
    assert video.times_s == (0, 0.125, 0.25, 0.375, 0.5)
    # Half of the colour's resolution blurs the edges of the bar alone.
    difference = np.abs(video.pixels[:, :33, :41].astype(int) - pixels)
    assert difference.mean() < 2
    assert np.median(difference) <= 1


@pytest.mark.parametrize(
    ("codec", "container", "media_type"),
    [
        ("libx264", "mp4", "video/mp4"),
        ("libx264", "matroska", "video/mp4"),
        ("libvpx-vp9", "webm", "video/webm"),
    ],
)
def test_frames_that_browsers_read_are_copied_without_metadata(codec, container, media_type):
    given = written(bars(6, 32, 40), codec, container)
    content, kind = browser_video(Video(given))
    assert kind == media_type
    assert b"secret-generator" in given
    assert b"secret-generator" not in content
    before, after = (sample_frames(one, 6) for one in (given, content))
    np.testing.assert_array_equal(before.pixels, after.pixels)
    assert before.times_s == pytest.approx(after.times_s, abs=0.002)


def test_a_mirrored_video_stays_mirrored():
    """The display matrix of the track sends x to -x."""
    given = written(bars(6, 32, 40), "libx264", "mp4")
    plain, mirrored = (
        struct.pack(">9i", x << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30) for x in (1, -1)
    )
    place = given.index(plain, given.index(b"tkhd"))
    turned = given[:place] + mirrored + given[place + len(plain) :]
    content, _ = browser_video(Video(turned))
    difference = np.abs(sample_frames(content, 1).pixels.astype(int) - bars(1, 32, 40)[:, :, ::-1])
    assert difference.mean() < 8


def test_frames_in_memory_and_a_still_image_become_videos():
    frames = tuple(Image(picture(frame)) for frame in grey_steps(3))
    content, _ = browser_video(Video(frames))
    assert sample_frames(content, 3).times_s == (0, 0.125, 0.25)
    still = media.encode_png(picture(grey_steps(1)[0]))
    assert sample_frames(browser_video(Video(still))[0], 1).n_source == 1


def test_a_cut_file_is_an_error_though_its_first_frame_could_be_read():
    given = written(bars(30, 64, 64), "libx264", "matroska")
    with pytest.raises(MediaError, match="the file ends after"):
        browser_video(Video(given[: len(given) * 3 // 4]))


def test_a_video_that_is_too_long_to_convert_is_an_error(monkeypatch):
    monkeypatch.setattr(browsers, "MAX_PIXELS", 5 * 33 * 41 - 1)
    with pytest.raises(MediaError, match="5 frames of 41x33 are too many to convert"):
        browser_video(Video(encode_mp4(bars(), 8)))
