"""Videos of arrays and tuples, and hashes of what is in memory or in a file."""

import numpy as np
import PIL.Image
import pytest

from unified_reward.core.errors import MediaError
from unified_reward.core.samples import Image, Video
from unified_reward.media import content_hash, encode_mp4, encode_png, sample_frames, select_frames

from .made import CARD, grey_steps, noise, picture


def test_arrays_and_tuples_of_frames_agree():
    pixels = noise(6, 4, 5, 3)
    unit = pixels.astype(np.float32) / 255
    for video in (
        Video(pixels, "THWC", fps=2),
        Video(pixels.transpose(0, 3, 1, 2), "TCHW", fps=2),
        Video(unit.transpose(0, 3, 1, 2), "TCHW", fps=2),
        Video(tuple(Image(frame, "HWC") for frame in pixels), fps=2),
        Video(tuple(Image(encode_png(picture(frame))) for frame in pixels), fps=2),
    ):
        frames = sample_frames(video, 3)
        np.testing.assert_array_equal(frames.pixels, pixels[[0, 2, 5]])
        assert frames.times_s == (0, 1, 2.5)
        assert frames.n_source == 6


def test_grey_arrays_and_arrays_with_opacity_become_rgb():
    grey = np.full((1, 2, 2, 1), 7, np.uint8)
    assert sample_frames(Video(grey, "THWC"), 1).pixels[0, 0, 0].tolist() == [7, 7, 7]
    clear = np.zeros((1, 2, 2, 4), np.uint8)
    assert sample_frames(Video(clear, "THWC"), 1).pixels[0, 0, 0].tolist() == [255, 255, 255]


def test_frames_in_memory_without_a_rate_have_no_times():
    assert sample_frames(Video(grey_steps(2), "THWC"), 2).times_s is None


def test_a_sampled_array_is_a_copy():
    pixels = grey_steps(2)
    sample_frames(Video(pixels, "THWC"), 2).pixels[:] = 99
    assert pixels.max() == 10


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (Video(()), "without frames"),
        (Video(np.zeros((0, 2, 2, 3), np.uint8), "THWC"), "without frames"),
        (Video(np.zeros((2, 2, 3), np.uint8), "HWC"), "layout HWC given; THWC or TCHW expected"),
        (Video(grey_steps(2), "TCHW"), "layout TCHW makes that 16 channels"),
        (Video(grey_steps(2), "THWC", fps=0.0), "cannot have 0.0 frames per second"),
        (Video(np.array(7, np.uint8), "THWC"), "without frames"),
        (Video(7), "object of type int: not a video"),
        (
            Video((Image(CARD, "HWC"), Image(CARD.transpose(1, 0, 2), "HWC"))),
            "frame 0 is 3x2 pixels and frame 1 2x3; all frames of a video must have one size",
        ),
    ],
)
def test_videos_in_memory_that_make_no_sense_are_refused(video, message):
    with pytest.raises(MediaError, match=message):
        sample_frames(video, 2)


def test_the_images_of_a_video_are_its_frames():
    video = sample_frames(Video(grey_steps(2), "THWC"), 2)
    first, second = video.images()
    assert first.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(second), video.pixels[1])


def test_equal_pixels_hash_equally_however_they_are_held(tmp_path):
    unit = CARD.astype(np.float32) / 255
    arrays = [Image(CARD, "HWC"), Image(unit.transpose(2, 0, 1), "CHW"), Image(picture(CARD))]
    assert len({content_hash(image) for image in arrays}) == 1
    pixels = noise(3, 4, 5, 3)
    videos = [
        Video(pixels, "THWC"),
        Video(pixels.transpose(0, 3, 1, 2), "TCHW", fps=8),
        Video(tuple(Image(frame, "HWC") for frame in pixels)),
    ]
    assert len({content_hash(video) for video in videos}) == 1


def test_shape_and_every_pixel_matter_to_the_hash():
    flat = np.zeros((2, 3, 3), np.uint8)
    other = flat.copy()
    other[1, 2, 2] = 1
    images = [Image(flat, "HWC"), Image(flat.reshape(3, 2, 3), "HWC"), Image(other, "HWC")]
    assert len({content_hash(image) for image in images}) == 3


def test_a_file_hashes_as_its_bytes(tmp_path):
    """sha256 of b"abc", FIPS 180-2 appendix B.1."""
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert content_hash(Image(path)) == content_hash(Video(b"abc")) == known
    with pytest.raises(MediaError, match="cannot be opened"):
        content_hash(Video(tmp_path / "missing"))


@pytest.mark.parametrize(
    "source_kind", ["stream", "animation", "array", "images", "still", "no rate"]
)
def test_a_rule_of_ones_own_is_told_how_many_frames_there_are_and_how_fast(source_kind, tmp_path):
    frames = np.stack([np.full((32, 32, 3), 25 * i, np.uint8) for i in range(6)])
    images = [PIL.Image.fromarray(one) for one in frames]
    file = tmp_path / "video"
    if source_kind == "stream":
        file.write_bytes(encode_mp4(frames, 12.5))
    elif source_kind == "animation":
        file = file.with_suffix(".gif")
        options = {"save_all": True, "append_images": images[1:], "loop": 0}
        images[0].save(file, duration=[40, 120, 80, 80, 80, 80], **options)
    elif source_kind == "still":
        images = images[:1]
        file = file.with_suffix(".png")
        images[0].save(file)
    source = {
        "array": Video(frames, "THWC", fps=12.5),
        "images": Video(tuple(map(Image, images)), fps=12.5),
        "no rate": Video(frames, "THWC"),
    }.get(source_kind, file)
    calls = []

    def choose(n_frames, rate):
        calls.append((n_frames, rate()))
        return (0, n_frames - 1)

    video = select_frames(source, choose)
    n = 1 if source_kind == "still" else 6
    assert calls == [(n, None if source_kind in ("still", "no rate") else pytest.approx(12.5))]
    assert video.n_source == n
    assert video.pixels[:, 0, 0, 0].tolist() == [0, 25 * (n - 1)]
