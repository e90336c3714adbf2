"""The table of docs/reference/media.md: each promise about pixels, in each container."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest

from unified_reward.media import frame_times, open_image, sample_frames

from .clips import BT601, BT709, FULL, LIMITED, clip_of, codes_of, frame_of
from .made import file_of


PAGE = Path(__file__).parents[3] / "docs" / "reference" / "media.md"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
SMALL = np.array([[RED, GREEN, BLUE], [WHITE, (0, 0, 0), (128, 128, 128)]], np.uint8)
CARD = np.kron(SMALL, np.ones((32, 32, 1), np.uint8))
"""Six fields of 32x32 pixels, for codecs that share chroma between neighbours."""
X264 = ("libx264", {"qp": "0", "preset": "ultrafast"})
CLIPS = {
    "MP4": ("mp4", *X264),
    "MOV": ("mov", *X264),
    "3GP": ("3gp", *X264),
    "Matroska": ("matroska", *X264),
    "WebM": ("webm", "libvpx-vp9", {"lossless": "1"}),
    "AVI": ("avi", *X264),
    "MPEG-TS": ("mpegts", *X264),
    "MPEG-PS": ("mpeg", "mpeg2video", {"qmin": "1", "qmax": "1"}),
    "FLV": ("flv", *X264),
    "ASF": ("asf", *X264),
    "Ogg": ("ogg", "libvpx", {"crf": "4", "b": "4M"}),
}
DEEP = {"WebM": ("libsvtav1", {"crf": "1", "preset": "10"}), "MOV": ("prores_ks", {})}
VARIABLE_RATE = ("MP4", "MOV", "3GP", "Matroska", "WebM", "MPEG-TS", "FLV")
CLEAR = {
    "MP4": ("png", {}, "rgba"),
    "MOV": ("prores_ks", {}, "yuva444p10le"),
    "Matroska": ("ffv1", {}, "yuva420p"),
    "WebM": ("libvpx-vp9", {"lossless": "1"}, "yuva420p"),
    "AVI": ("png", {}, "rgba"),
    "ASF": ("png", {}, "rgba"),
}
IMAGES = {
    "PNG": {},
    "JPEG": {"quality": 100, "subsampling": 0},
    "WebP": {"lossless": True},
    "GIF": {},
    "BMP": {},
    "TIFF": {},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


def table():
    """Container and promise of every cell, with its text."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text("utf-8").splitlines()
        if line.startswith("|")
    ]
    promises = rows[0][1:]
    return {
        (row[0], promise): cell
        for row in rows[2:]
        for promise, cell in zip(promises, row[1:], strict=True)
    }


TABLE = table()


def encoded_card(name, **options):
    container, codec, codec_options = CLIPS[name]
    color_range = options.get("color_range", LIMITED)
    frame = frame_of(codes_of(CARD, 8, options.get("matrix", BT601), color_range), "yuv420p")
    return clip_of([frame], container, codec, codec_options, **options)


def fields(pixels):
    """Middle pixel of each field of the card."""
    return np.asarray(pixels).astype(int)[16::32, 16::32]


def is_card(pixels, expected=CARD, tolerance=2):
    assert np.asarray(pixels).shape == expected.shape
    np.testing.assert_allclose(fields(pixels), fields(expected), atol=tolerance)


def frames_of_clips(name):
    container, codec, options = CLIPS[name]
    grey = [np.full((64, 96, 3), 40 * i, np.uint8) for i in range(4)]
    frames = [frame_of(codes_of(one, 8, BT601, LIMITED), "yuv420p") for one in grey]
    instants = (0, 1, 3, 4) if name in VARIABLE_RATE else None
    clip = clip_of(frames, container, codec, options, instants=instants)
    video = sample_frames(clip, 4)
    assert video.n_source == 4
    np.testing.assert_allclose(video.pixels[:, 9, 9, 0], [0, 40, 80, 120], atol=2)
    np.testing.assert_allclose(video.times_s, np.array(instants or range(4)) / 10, atol=2e-3)
    assert frame_times(clip) == pytest.approx(video.times_s, abs=1e-9)


def frames_of_images(name):
    grey = [PIL.Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)) for i in range(3)]
    options = {"save_all": True, "append_images": grey[1:], "duration": [200, 100, 300]}
    video = sample_frames(file_of(grey[0], name, **options, **IMAGES[name]), 3)
    assert video.n_source == 3
    np.testing.assert_allclose(video.pixels[:, 4, 4, 0], [0, 40, 80], atol=2)
    assert video.times_s == pytest.approx((0, 0.2, 0.3))


def colours_of_clips(name):
    for matrix in (BT601, BT709):
        for color_range in (LIMITED, FULL):
            if name == "Ogg" and (matrix, color_range) != (BT601, LIMITED):
                continue  # VP8 has no other
            options = {"matrix": matrix, "color_range": color_range}
            is_card(sample_frames(encoded_card(name, **options), 1).pixels[0])


def deep_clips(name):
    container = CLIPS[name][0]
    codec, options = DEEP.get(name, X264)
    pix_fmt = "yuv422p10le" if codec == "prores_ks" else "yuv420p10le"
    frame = frame_of(codes_of(CARD, 10, BT709, LIMITED), pix_fmt)
    clip = clip_of([frame], container, codec, options, matrix=BT709)
    is_card(sample_frames(clip, 1).pixels[0], tolerance=1)


def square_clips(name):
    if name == "MPEG-PS":  # MPEG-2 has three shapes of the whole frame alone
        clip, width = encoded_card(name, shape=Fraction(2, 3) * Fraction(16, 9)), round(64 * 16 / 9)
    elif name == "WebM":
        clip, width = encoded_card(name, matrix=BT709, color_range=LIMITED), 192
        clip = with_display_size(clip, width, 64)
    else:
        clip, width = encoded_card(name, shape=2), 192
    pixels = sample_frames(clip, 1).pixels[0]
    assert pixels.shape == (64, width, 3)
    is_card(pixels[:, (np.arange(96) * width + width // 2) // 96])


def with_display_size(matroska, width, height):
    """Put a display size in place of the element that describes the colours."""
    place = matroska.index(b"\x55\xb0")
    length = 3 + (matroska[place + 2] & 0x7F)
    size = b"\x54\xb0\x81" + bytes([width]) + b"\x54\xba\x81" + bytes([height])
    void = b"\xec" + bytes([0x80 | (length - len(size) - 2)])
    return matroska[:place] + (size + void).ljust(length, b"\0") + matroska[place + length :]


def upright_clips(name):
    video = sample_frames(encoded_card(name, turn=90), 1)
    is_card(video.pixels[0], np.rot90(CARD))


def upright_images(name):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    lying = PIL.Image.fromarray(np.rot90(CARD))
    data = file_of(lying, name, exif=exif.tobytes(), **IMAGES[name])
    is_card(open_image(data))
    is_card(sample_frames(data, 1).pixels[0])


def clear_right_field():
    """The card with blue and grey transparent, its opacity, and how it looks on white."""
    opacity = np.full(CARD.shape[:2], 255, np.uint8)
    opacity[:, 64:] = 0
    return np.dstack([CARD, opacity]), np.where(opacity[..., None] == 0, 255, CARD).astype(np.uint8)


def clips_on_white(name):
    codec, options, pix_fmt = CLEAR[name]
    rgba, expected = clear_right_field()
    if pix_fmt == "rgba":
        frame = av.VideoFrame.from_ndarray(rgba, format="rgba")
    else:
        bits = 10 if "10" in pix_fmt else 8
        codes = codes_of(CARD, bits, BT601, LIMITED)
        frame = frame_of(codes, pix_fmt, rgba[..., 3].astype(int) * (2**bits - 1) // 255)
    clip = clip_of([frame], CLIPS[name][0], codec, options)
    is_card(sample_frames(clip, 1).pixels[0], expected)


def images_on_white(name):
    rgba, expected = clear_right_field()
    image = PIL.Image.fromarray(rgba)
    data = bmp_with_opacity(image) if name == "BMP" else file_of(image, name, **IMAGES[name])
    is_card(open_image(data), expected, tolerance=3)


def bmp_with_opacity(image):
    """A BMP with a mask of opacity in its header, which Pillow does not write."""
    data = file_of(image, "BMP")
    masks = b"".join(value.to_bytes(4, "little") for value in (0xFF0000, 0xFF00, 0xFF, 0xFF000000))
    pixels = np.asarray(image)[::-1, :, [2, 1, 0, 3]].tobytes()
    header = bytearray(data[:54])
    header[10:14] = (14 + 108).to_bytes(4, "little")
    header[14:18] = (108).to_bytes(4, "little")
    header[30:34] = (3).to_bytes(4, "little")  # colours by masks
    return bytes(header) + masks + bytes(108 - 40 - 16) + pixels


def deep_images(name):
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    data = file_of(PIL.Image.fromarray(ramp), name)
    np.testing.assert_array_equal(np.asarray(open_image(data))[..., 0].ravel(), range(256))


def avif_of_10_bits(name):
    codes = codes_of(CARD, 10, BT601, FULL)
    options = {"crf": "1", "preset": "10", "svtav1-params": "avif=1"}
    frame = frame_of(codes, "yuv420p10le")
    data = clip_of([frame], "avif", "libsvtav1", options, matrix=BT601, color_range=FULL)
    is_card(open_image(data), tolerance=4)


CHECKS = {
    "frames and times": (frames_of_clips, frames_of_images),
    "colours": (
        colours_of_clips,
        lambda name: is_card(open_image(file_of(PIL.Image.fromarray(CARD), name, **IMAGES[name]))),
    ),
    "above 8 bits": (deep_clips, deep_images),
    "square": (square_clips, None),
    "upright": (upright_clips, upright_images),
    "on white": (clips_on_white, images_on_white),
}


@pytest.mark.parametrize(
    ("name", "promise"), [cell for cell, text in TABLE.items() if text == "yes"]
)
def test_a_promise_of_the_table_holds(name, promise):
    of_clips, of_images = CHECKS[promise]
    if (name, promise) == ("AVIF", "above 8 bits"):
        of_images = avif_of_10_bits
    check = of_clips if name in CLIPS else of_images
    assert check is not None, "the table promises what nothing checks"
    check(name)


def test_the_table_has_every_container_and_every_promise():
    assert set(TABLE) == {(name, promise) for name in (*CLIPS, *IMAGES) for promise in CHECKS}
