"""Animations as browsers show them: which frames there are, for how long, on which canvas."""

import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from unified_reward.core.errors import MediaError
from unified_reward.media import image_or_video, open_image, sample_frames, verify_image

from .made import file_of, grey_steps, picture


CLEAR, RED, BLUE, WHITE = (0, 0, 0, 0), (255, 0, 0, 255), (0, 0, 255, 255), [255] * 3
KEEP, CLEARED, RESTORED = 0, 1, 2
REPLACED, BLENDED = 0, 1


def chunk(kind, body):
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def apng(frames, *, size=(2, 1), default=None, n_frames=None):
    """An RGBA animation; a frame is pixels, x, disposal, blend; ``default`` stands apart."""
    numbers = iter(range(99))

    def rows(pixels):
        return zlib.compress(b"\0" + bytes(value for pixel in pixels for value in pixel))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 6, 0, 0, 0))]
    parts.append(chunk(b"acTL", struct.pack(">II", n_frames or len(frames), 0)))
    if default:
        parts.append(chunk(b"IDAT", rows(default)))
    for i, (pixels, x, disposal, blend) in enumerate(frames):
        place = (len(pixels), 1, x, 0, 1, 10, disposal, blend)
        parts.append(chunk(b"fcTL", struct.pack(">5I2H2B", next(numbers), *place[:4], *place[4:])))
        if i == 0 and not default:
            parts.append(chunk(b"IDAT", rows(pixels)))
        else:
            parts.append(chunk(b"fdAT", struct.pack(">I", next(numbers)) + rows(pixels)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def gif(frames, *, size=(2, 1), background=0):
    """A GIF of red (1), blue (2) and transparent (3); a frame is indices, x, disposal, delay."""
    palette = bytes([9, 9, 9, 255, 0, 0, 0, 0, 255, 7, 7, 7])
    parts = [b"GIF89a" + struct.pack("<HHBBB", *size, 0x81, background, 0) + palette]
    for indices, x, disposal, delay in frames:
        control = struct.pack("<BHBB", disposal << 2 | (3 in indices), delay, 3, 0)
        # Codes of three bits: clear, the indices, end; two indices fit before codes grow.
        bits = sum(code << 3 * i for i, code in enumerate((4, *indices, 5)))
        codes = bits.to_bytes(-(-3 * (len(indices) + 2) // 8), "little")
        parts.append(b"!\xf9\x04" + control + struct.pack("<B4HB", 0x2C, x, 0, len(indices), 1, 0))
        parts.append(bytes([2, len(codes)]) + codes + b"\0")
    return b"".join(parts) + b";"


def first_rows(data, n):
    return sample_frames(data, n).pixels[:, 0].tolist()


def test_an_image_apart_from_an_animated_png_is_no_frame():
    data = apng(
        [([RED, RED], 0, KEEP, REPLACED), ([BLUE, BLUE], 0, KEEP, REPLACED)], default=[CLEAR, RED]
    )
    video = sample_frames(data, 2)
    assert (video.n_source, video.times_s) == (2, pytest.approx((0, 0.1)))
    assert first_rows(data, 2) == [[[255, 0, 0]] * 2, [[0, 0, 255]] * 2]
    assert open_image(data).getpixel((0, 0)) == (255, 0, 0)
    assert image_or_video(data) == "video"


def test_an_animated_png_of_one_frame_is_a_still_of_that_frame():
    data = apng([([BLUE, BLUE], 0, KEEP, REPLACED)], default=[RED, RED])
    verify_image(data)
    assert image_or_video(data) == "image"
    assert open_image(data).getpixel((0, 0)) == (0, 0, 255)
    assert sample_frames(data, 1).n_source == 1


def test_the_first_frame_is_laid_on_an_empty_canvas_and_not_on_the_image_apart():
    data = apng([([BLUE], 1, KEEP, BLENDED)], default=[RED, RED])
    assert first_rows(data, 1) == [[WHITE, [0, 0, 255]]]


@pytest.mark.parametrize(
    ("disposal", "blend", "second"),
    [
        (KEEP, BLENDED, [[255, 0, 0], [0, 0, 255]]),
        (KEEP, REPLACED, [WHITE, [0, 0, 255]]),
        (CLEARED, BLENDED, [WHITE, [0, 0, 255]]),
        (RESTORED, BLENDED, [WHITE, [0, 0, 255]]),
    ],
)
def test_disposal_and_blending_of_an_animated_png(disposal, blend, second):
    frames = [([RED, RED], 0, disposal, REPLACED), ([CLEAR, BLUE], 0, KEEP, blend)]
    assert first_rows(apng(frames), 2) == [[[255, 0, 0]] * 2, second]


def test_an_animated_png_of_16_bit_grey_is_scaled():
    frames = [PIL.Image.fromarray(np.full((1, 2), v, np.uint16)) for v in (0, 32768, 65535)]
    data = file_of(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert sample_frames(data, 3).pixels[:, 0, 0, 0].tolist() == [0, 128, 255]


def test_missing_and_disordered_frames_are_errors():
    frame = ([RED, RED], 0, KEEP, REPLACED)
    with pytest.raises(MediaError, match="the animation ends after frame 2 of 3"):
        sample_frames(apng([frame, frame], n_frames=3), 1)
    with pytest.raises(MediaError, match="its frames are out of order"):
        sample_frames(apng([frame, frame]).replace(*swapped_numbers(apng([frame, frame]))), 1)
    with pytest.raises(MediaError, match="a frame lies outside of the canvas"):
        sample_frames(apng([frame, ([RED], 2, KEEP, REPLACED)]), 1)


def swapped_numbers(data):
    """The last frame of a PNG, and the same with another number."""
    place = data.rindex(b"fdAT") - 4
    length = int.from_bytes(data[place : place + 4], "big")
    old = data[place : place + 12 + length]
    return old, chunk(b"fdAT", struct.pack(">I", 7) + old[12:-4])


@pytest.mark.parametrize("background", [0, 1])
def test_what_no_frame_of_a_gif_covers_is_white_and_not_the_background_colour(background):
    assert first_rows(gif([((2,), 1, 0, 10)], background=background), 1) == [[WHITE, [0, 0, 255]]]


@pytest.mark.parametrize(
    ("disposal", "second"),
    [(0, [255, 0, 0]), (1, [255, 0, 0]), (2, WHITE), (3, WHITE)],
)
def test_disposal_of_a_gif(disposal, second):
    data = gif([((1, 1), 0, disposal, 10), ((3, 2), 0, 0, 10)], background=1)
    assert first_rows(data, 2) == [[[255, 0, 0]] * 2, [second, [0, 0, 255]]]


def test_a_gif_whose_later_frame_reaches_beyond_the_limit_is_refused():
    data = bytearray(gif([((1, 1), 0, 0, 10)] * 2))
    place = data.rindex(b",")
    data[place + 1 : place + 5] = struct.pack("<HH", 65000, 65000)
    with pytest.raises(MediaError, match="65002x65001 pixels"):
        open_image(bytes(data))


def test_a_gif_whose_canvas_is_too_small_is_as_large_as_its_first_frame():
    data = gif([((1, 2), 0, 0, 10), ((2, 2), 1, 0, 10)], size=(1, 1))
    assert first_rows(data, 2) == [[[255, 0, 0], [0, 0, 255]], [[255, 0, 0], [0, 0, 255]]]


def test_a_delay_that_browsers_do_not_show_is_a_tenth_of_a_second():
    data = gif([((1, 1), 0, 0, delay) for delay in (0, 1, 2, 30, 5)])
    assert sample_frames(data, 5).times_s == pytest.approx((0, 0.1, 0.2, 0.22, 0.52))
    frames = [picture(frame) for frame in grey_steps(3)]
    for fmt in ("WEBP", "PNG"):
        data = file_of(
            frames[0], fmt, save_all=True, append_images=frames[1:], duration=[10, 40, 0]
        )
        assert sample_frames(data, 3).times_s == pytest.approx((0, 0.1, 0.14))


@pytest.mark.parametrize("flags", [0x02, 0x12])
def test_what_no_frame_of_a_webp_covers_is_white_whatever_its_header_says(flags):
    def block(kind, body):
        return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)

    red = file_of(PIL.Image.new("RGB", (4, 4), (255, 0, 0)), "WEBP", lossless=True)[12:]
    frames = [
        struct.pack("<8I", x // 2, 0, 3, 3, 100, disposal, 0, 0)
        for x, disposal in ((0, 0), (4, 1), (0, 0))
    ]
    packed = [
        b"".join(frame[4 * i : 4 * i + 3] for i in range(5)) + frame[20:21] + red
        for frame in frames
    ]
    body = block(b"VP8X", bytes([flags, 0, 0, 0, 7, 0, 0, 3, 0, 0])) + block(b"ANIM", bytes(6))
    body += b"".join(block(b"ANMF", frame) for frame in packed)
    data = b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    pixels = sample_frames(data, 3).pixels[:, 0, [0, 4]].tolist()
    red = [255, 0, 0]
    assert pixels == [[red, WHITE], [red, red], [red, WHITE]]
    np.testing.assert_array_equal(open_image(data).getpixel((4, 0)), WHITE)
