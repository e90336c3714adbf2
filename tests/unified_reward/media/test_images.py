"""Images: formats, modes, arrays, limits, and what is refused."""

import warnings

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unified_reward.core.errors import ConfigError, MediaError
from unified_reward.core.samples import Image, Video
from unified_reward.media import Limits, describe, fit_pixels, open_image

from .made import (
    BLUE,
    CARD,
    GREEN,
    REAL,
    RED,
    STORED,
    WHITE,
    file_of,
    grey_steps,
    needs_real_media,
    noise,
    picture,
    png_claiming,
)


@pytest.mark.parametrize(
    ("fmt", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
    ],
)
def test_every_lossless_format_gives_the_pixels_back(fmt, options):
    result = open_image(file_of(picture(CARD), fmt, **options))
    assert result.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(result), CARD)


def test_a_jpeg_is_close_to_the_pixels():
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    result = np.asarray(open_image(file_of(picture(flat), "JPEG", quality=95))).astype(int)
    assert np.abs(result - flat).max() <= 3


def test_the_content_counts_and_not_the_suffix(tmp_path):
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(file_of(picture(CARD), "PNG"))
    np.testing.assert_array_equal(np.asarray(open_image(path)), CARD)
    np.testing.assert_array_equal(np.asarray(open_image(str(path))), CARD)
    np.testing.assert_array_equal(np.asarray(open_image(Image(path))), CARD)


def test_an_animation_opened_as_an_image_is_its_first_frame():
    frames = [picture(frame) for frame in grey_steps(3)]
    gif = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(open_image(gif)).max() == 0


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "WEBP"])
def test_every_exif_orientation_comes_out_upright(orientation, fmt):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if fmt == "WEBP" else {}
    data = file_of(picture(STORED[orientation]), fmt, exif=exif.tobytes(), **lossless)
    np.testing.assert_array_equal(np.asarray(open_image(data)), CARD)


def test_opening_twice_turns_once():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    once = open_image(file_of(picture(STORED[6]), "PNG", exif=exif.tobytes()))
    np.testing.assert_array_equal(np.asarray(open_image(once)), CARD)


def test_what_is_opened_belongs_to_the_caller():
    original = picture(CARD)
    open_image(original).putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(np.asarray(original), CARD)


def test_transparency_is_laid_on_white():
    """Opacity 51 / 255 = 0.2 of red (255, 0, 0): 255, 0.8 * 255 = 204, 204."""
    rgba = np.array([[(255, 0, 0, 51), (0, 0, 0, 0), (0, 0, 255, 255)]], np.uint8)
    expected = [[(255, 204, 204), WHITE, BLUE]]
    assert (
        np.asarray(open_image(file_of(picture(rgba), "PNG"))).tolist()
        == np.asarray(expected).tolist()
    )
    assert np.asarray(open_image(Image(rgba, "HWC"))).tolist() == np.asarray(expected).tolist()


def test_grey_with_opacity_is_laid_on_white():
    la = PIL.Image.fromarray(np.array([[(0, 51), (100, 255)]], np.uint8), "LA")
    assert np.asarray(open_image(file_of(la, "PNG")))[0, :, 0].tolist() == [204, 100]


@pytest.mark.parametrize("fmt", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(fmt):
    palette = PIL.Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    data = file_of(palette, fmt, transparency=0)
    assert np.asarray(open_image(data)).tolist() == [[list(WHITE), list(BLUE)]]


def test_an_rgb_colour_declared_transparent_is_white():
    data = file_of(picture(CARD), "PNG", transparency=GREEN)
    assert np.asarray(open_image(data))[0].tolist() == [list(RED), list(WHITE), list(BLUE)]


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(fmt):
    deep = PIL.Image.fromarray(np.array([[0, 257, 32768, 65535]], np.uint16))
    assert np.asarray(open_image(file_of(deep, fmt)))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_transparent_16_bit_value_is_white():
    deep = PIL.Image.fromarray(np.array([[0, 257, 514]], np.uint16))
    data = file_of(deep, "PNG", transparency=257)
    assert np.asarray(open_image(data))[0, :, 0].tolist() == [0, 255, 2]


def test_32_bit_grey_beyond_16_bits_is_refused():
    huge = PIL.Image.fromarray(np.array([[0, 70000]], np.int32))
    with pytest.raises(
        MediaError, match=r"grey values from 0 to 70000; mode I is read from 0 to 65535"
    ):
        open_image(file_of(huge, "TIFF"))


def test_float_grey_from_0_to_1_is_read_and_nan_is_not():
    good = PIL.Image.fromarray(np.array([[0, 0.2, 1]], np.float32))
    assert np.asarray(open_image(good))[0, :, 0].tolist() == [0, 51, 255]
    with pytest.raises(MediaError, match="grey values from nan to nan"):
        open_image(PIL.Image.fromarray(np.array([[0, np.nan]], np.float32)))


def test_one_bit_grey_and_cmyk_become_rgb():
    bits = PIL.Image.fromarray(np.array([[True, False]]))
    assert np.asarray(open_image(file_of(bits, "PNG"))).tolist() == [[[255] * 3, [0] * 3]]
    ink = PIL.Image.new("CMYK", (1, 1), (0, 255, 255, 0))
    assert np.asarray(open_image(file_of(ink, "TIFF"))).tolist() == [[list(RED)]]


def test_layouts_and_ranges_of_arrays_agree():
    unit = CARD.astype(np.float32) / 255
    for image in (
        Image(CARD, "HWC"),
        Image(CARD.transpose(2, 0, 1), "CHW"),
        Image(unit, "HWC"),
        Image(unit.astype(np.float64).transpose(2, 0, 1), "CHW"),
    ):
        np.testing.assert_array_equal(np.asarray(open_image(image)), CARD)


@given(st.integers(0, 255))
def test_every_8_bit_value_survives_float16(value):
    array = np.full((1, 1, 1), value / 255, np.float16)
    assert open_image(Image(array, "HWC")).getpixel((0, 0)) == (value, value, value)


@pytest.mark.parametrize(
    ("array", "layout", "message"),
    [
        (np.full((2, 2, 3), 1.5), "HWC", r"values from 1.5 to 1.5; uint8, or float in \[0, 1\]"),
        (np.full((2, 2, 3), -0.1), "HWC", "values from -0.1"),
        (np.full((2, 2, 3), np.nan), "HWC", "values from nan to nan"),
        (np.zeros((2, 2, 3), np.int64), "HWC", "3-D int64 array of shape .* values from 0 to 0"),
        (np.zeros((2, 2), np.uint8), "HWC", "not a filled array of layout HWC"),
        (np.zeros((0, 2, 3), np.uint8), "HWC", "not a filled array of layout HWC"),
        (np.zeros((3, 4, 5), np.uint8), "HWC", "layout HWC makes that 5 channels"),
        (np.zeros((3, 4, 4), np.uint8), "THWC", "layout THWC given; HWC or CHW expected"),
    ],
)
def test_an_array_that_breaks_its_declaration_is_refused(array, layout, message):
    with pytest.raises(MediaError, match=message):
        open_image(Image(array, layout))


def test_an_array_without_a_layout_is_refused():
    with pytest.raises(MediaError, match="layout None given; HWC or CHW expected"):
        open_image(CARD)


def test_other_objects_are_refused_by_type():
    with pytest.raises(MediaError, match="object of type dict: not an image"):
        open_image(Image({}))


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_an_image_cut_short_is_an_error_that_names_it(fmt, share, tmp_path):
    data = file_of(picture(noise(64, 64, 3)), fmt)
    path = tmp_path / "half.bin"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MediaError, match=r"half\.bin"):
        open_image(path)


def test_files_that_are_not_images_are_named(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("not an image at all\n" * 50)
    with pytest.raises(MediaError, match=r"text\.png: not an image; PNG, JPEG"):
        open_image(text)
    empty = tmp_path / "empty.png"
    empty.touch()
    with pytest.raises(MediaError, match=r"empty\.png: the file is empty"):
        open_image(empty)
    with pytest.raises(MediaError, match=r"missing\.png: cannot be opened: No such file"):
        open_image(tmp_path / "missing.png")
    with pytest.raises(MediaError, match="cannot be opened: Is a directory"):
        open_image(tmp_path)


def test_a_header_that_promises_ten_gigapixels_is_refused():
    with pytest.raises(MediaError, match="too many pixels"):
        open_image(png_claiming(100_000, 100_000))


def test_the_limit_of_pixels_is_checked_before_decoding():
    """The data of this file is missing: decoding it first would say that it is truncated."""
    with pytest.raises(MediaError, match="8192x8193 pixels; between 1 and 67108864 are read"):
        open_image(png_claiming(8192, 8193))
    with pytest.raises(MediaError, match="truncated"):
        open_image(png_claiming(8192, 8192))


def test_an_image_between_our_limit_and_pillows_is_refused_even_where_warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(MediaError, match="too many pixels"):
            open_image(png_claiming(10_000, 10_000))


def test_limits_apply_to_pixels_and_bytes_of_any_source():
    data = file_of(picture(CARD), "PNG")
    assert open_image(data, limits=Limits(max_pixels=6, max_bytes=len(data))).size == (3, 2)
    with pytest.raises(MediaError, match="3x2 pixels; between 1 and 5"):
        open_image(data, limits=Limits(max_pixels=5))
    with pytest.raises(MediaError, match="3x2 pixels; between 1 and 5"):
        open_image(picture(CARD), limits=Limits(max_pixels=5))
    with pytest.raises(MediaError, match=f"{len(data)} bytes; at most {len(data) - 1} are read"):
        open_image(data, limits=Limits(max_bytes=len(data) - 1))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 5000))
@settings(deadline=None)
def test_a_fitted_image_fits_and_keeps_its_shape(width, height, max_pixels):
    fitted = fit_pixels(PIL.Image.new("RGB", (width, height)), max_pixels)
    assert fitted.width * fitted.height <= max_pixels
    assert (fitted.width, fitted.height) <= (width, height)
    if min(fitted.size) >= 10:
        assert fitted.width / fitted.height == pytest.approx(width / height, rel=0.12)


def test_an_image_that_fits_is_left_alone():
    small = picture(CARD)
    assert fit_pixels(small, 6) is small
    with pytest.raises(ConfigError, match="max_pixels is 0"):
        fit_pixels(small, 0)


def test_shrinking_averages_instead_of_dropping_pixels():
    board = np.zeros((64, 64, 3), np.uint8)
    board[::2, ::2] = board[1::2, 1::2] = 255
    shrunk = np.asarray(fit_pixels(picture(board), 16 * 16))
    assert shrunk.shape == (16, 16, 3)
    assert np.abs(shrunk.astype(int)[2:-2, 2:-2] - 127).max() <= 3


def test_sources_are_described_in_a_few_words():
    assert describe(Video(grey_steps(2), "THWC")) == "4-D uint8 array of shape (2, 16, 16, 3)"
    assert describe(picture(CARD)) == "PIL image RGB 3x2"
    assert describe((1, 2)) == "tuple of 2 frames"


@needs_real_media
def test_real_photographs_open_at_their_size():
    sizes = {
        "skimage/chelsea.png": (451, 300),
        "sklearn/china.jpg": (640, 427),
        "piq_tid2013/I01.BMP": (512, 384),
    }
    for name, size in sizes.items():
        assert open_image(REAL / name).size == size
