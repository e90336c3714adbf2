"""Pixels of decoded frames: levels, matrices, opacity, shape of pixels, what is refused."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from unified_reward.core.errors import MediaError
from unified_reward.media import Limits, image_or_video, sample_frames
from unified_reward.media.frames import display_size, frame_rgb

from .clips import BT601, BT709, BT2020, FULL, LIMITED, clip_of, codes_of, frame_of, rgb_of
from .made import noise


X264 = ("libx264", {"qp": "0", "preset": "ultrafast"})
SQUARE = Fraction(1)
# Half a level of rounding, and what libswscale rounds before.
HALF = 0.52


def converted(frame, matrix=BT601, color_range=LIMITED, shape=SQUARE):
    frame.colorspace, frame.color_range = matrix, color_range
    return frame_rgb(frame, VideoReformatter(), shape).astype(float)


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("matrix", [BT601, BT709, BT2020])
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
@pytest.mark.parametrize("sampling", ["420", "444"])
def test_every_level_and_any_colour_is_converted_exactly(bits, matrix, color_range, sampling):
    """All grey levels, and blocks of any codes, whose middle no interpolation reaches."""
    pix_fmt = f"yuv{sampling}p" + (f"{bits}le" if bits > 8 else "")
    grey = np.full((16, 2**bits, 3), 2 ** (bits - 1))
    grey[..., 0] = np.arange(2**bits)
    found = converted(frame_of(grey, pix_fmt), matrix, color_range)
    assert np.abs(found - rgb_of(grey, bits, matrix, color_range)).max() <= HALF
    codes = np.random.default_rng(bits).integers(0, 2**bits, (16, 32, 3))
    blocks = codes.repeat(16, 0).repeat(16, 1)
    found = converted(frame_of(blocks, pix_fmt), matrix, color_range)[8::16, 8::16]
    assert np.abs(found - rgb_of(codes, bits, matrix, color_range)).max() <= HALF


@pytest.mark.parametrize("sampling", ["420", "422", "440", "411"])
@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_chroma_of_8_bits_is_repeated(sampling, size):
    down, right = {"420": (2, 2), "422": (1, 2), "440": (2, 1), "411": (1, 4)}[sampling]
    codes = np.random.default_rng(1).integers(0, 256, (*size, 3))
    for channel in (1, 2):
        few = codes[::down, ::right, channel]
        codes[..., channel] = few.repeat(down, 0).repeat(right, 1)[: size[0], : size[1]]
    found = converted(frame_of(codes, f"yuv{sampling}p"))
    assert np.abs(found - rgb_of(codes, 8, BT601, LIMITED)).max() <= HALF


@pytest.mark.parametrize(("pix_fmt", "bits"), [("gray", 8), ("gray10le", 10), ("gray12le", 12)])
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
def test_grey_has_the_levels_of_its_range(pix_fmt, bits, color_range):
    codes = np.full((2, 2**bits, 3), 2 ** (bits - 1))
    codes[..., 0] = np.arange(2**bits)
    found = converted(frame_of(codes, pix_fmt), BT601, color_range)
    assert np.abs(found - rgb_of(codes, bits, BT601, color_range)).max() <= HALF


@pytest.mark.parametrize(
    ("pix_fmt", "bits"), [("yuva420p", 8), ("yuva444p10le", 10), ("yuva444p12le", 12)]
)
def test_every_opacity_is_blended_with_white(pix_fmt, bits):
    opacity = np.tile(np.arange(2**bits), (2, 1))
    black = codes_of(np.zeros((2, 2**bits, 3)), bits, BT601, LIMITED)
    found = converted(frame_of(black, pix_fmt, opacity))
    expected = 255 * (1 - opacity / (2**bits - 1))
    assert np.abs(found - expected[..., None]).max() <= 2 * HALF


@pytest.mark.parametrize(
    ("pix_fmt", "bits"), [("gbrp", 8), ("gbrp10le", 10), ("gbrp12le", 12), ("gbrp16le", 16)]
)
def test_deep_rgb_is_scaled_exactly(pix_fmt, bits):
    levels = np.linspace(0, 2**bits - 1, 256).round().astype(int)
    codes = np.stack([levels] * 3, -1)[None]
    found = converted(frame_of(codes, pix_fmt), 0, FULL)
    assert np.abs(found - codes * (255 / (2**bits - 1))).max() <= HALF


def test_big_endian_colours_of_15_bits_keep_their_channels():
    frame = av.VideoFrame(4, 1, "rgb555be")
    colours = np.array([31 << 10, 31 << 5, 31, 0x7FFF], ">u2")
    frame.planes[0].update(colours.tobytes().ljust(frame.planes[0].buffer_size, b"\0"))
    assert converted(frame)[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("1", (96, 64)),
        ("2", (192, 64)),
        ("1/2", (96, 128)),
        ("8/9", (96, 72)),
        ("4320/4319", (96, 64)),
    ],
)
def test_pixels_that_are_not_square_stretch_the_frame_and_lose_nothing(shape, size):
    assert display_size((96, 64), Fraction(shape)) == size
    codes = codes_of(noise(64, 96, 3), 8, BT601, LIMITED)
    clip = clip_of([frame_of(codes, "yuv444p")], "mp4", *X264, shape=shape)
    assert sample_frames(clip, 1).pixels.shape == (1, size[1], size[0], 3)


def test_shape_of_pixels_and_rotation_work_together():
    clip = clip_of([grey_frame(64, 96)], "mp4", *X264, shape=2, turn=90)
    assert sample_frames(clip, 1).pixels.shape == (1, 192, 64, 3)


def clip_of_shape(count, by):
    """An MP4 whose box ``pasp`` states a shape."""
    data = clip_of([grey_frame(64, 96)], "mp4", "ffv1", {}, shape=2)
    place = data.index(b"pasp") + 4
    return data[:place] + struct.pack(">II", count, by) + data[place + 8 :]


@pytest.mark.parametrize(("count", "by"), [(0, 1), (1, 0), (0, 0), (2**32 - 1, 1)])
def test_a_shape_that_is_none_is_passed_over(count, by):
    assert sample_frames(clip_of_shape(count, by), 1).pixels.shape == (1, 64, 96, 3)


def test_an_absurd_shape_of_pixels_is_bounded_by_the_limit():
    clip = clip_of_shape(60_000, 1)
    for read in (image_or_video, lambda file: sample_frames(file, 1)):
        with pytest.raises(MediaError, match="5760000x64 pixels; between 1 and 67108864"):
            read(clip)
    with pytest.raises(MediaError, match="192x64 pixels"):
        sample_frames(clip_of_shape(2, 1), 1, limits=Limits(max_pixels=64 * 96))


def grey_frame(height, width):
    return frame_of(np.full((height, width, 3), 128), "yuv420p")


def test_hdr_and_unknown_matrices_are_refused():
    for attribute, value, message in (
        ("color_trc", 16, r"HDR \(PQ\) is not read; tone-map it"),
        ("colorspace", 8, "its colour matrix is not read"),
    ):
        clip = clip_of([grey_frame(64, 96)], "matroska", *X264, **{attribute: value})
        with pytest.raises(MediaError, match=message):
            sample_frames(clip, 1)


def test_a_frame_that_changes_its_size_is_an_error_where_it_is_sampled():
    """Two transport streams behind each other, as broadcasts have them."""
    clip = b"".join(
        clip_of([grey_frame(*size)] * 4, "mpegts", *X264) for size in ((64, 96), (96, 64))
    )
    with pytest.raises(MediaError, match="frame 0 is 96x64 pixels and frame 7 64x96"):
        sample_frames(clip, 2)


def test_times_count_from_the_first_frame():
    """A transport stream starts at 1.4 s; the edit list of this MP4 delays its first frame."""
    for container in ("mpegts", "mp4"):
        clip = clip_of([grey_frame(64, 96)] * 3, container, *X264, instants=(5, 6, 8))
        assert sample_frames(clip, 3).times_s == pytest.approx((0, 0.1, 0.3))


def test_frames_come_in_order_of_display_where_they_are_stored_otherwise():
    frames = [
        frame_of(codes_of(np.full((64, 96, 3), 30 * i), 8, BT601, LIMITED), "yuv420p")
        for i in range(8)
    ]
    options = {"crf": "5", "x264-params": "bframes=3:b-adapt=0"}
    for container in ("mp4", "matroska", "mpegts"):
        video = sample_frames(clip_of(frames, container, "libx264", options), 8)
        np.testing.assert_allclose(video.pixels[:, 9, 9, 0], range(0, 240, 30), atol=3)
        assert video.times_s == pytest.approx([i / 10 for i in range(8)], abs=1e-3)
