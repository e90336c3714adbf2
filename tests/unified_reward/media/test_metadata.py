"""Metadata that cannot be read costs nothing; pixels that cannot be read are an error."""

import io
import random
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from PIL.PngImagePlugin import PngInfo

from unified_reward.core.errors import MediaError
from unified_reward.media import image_or_video, open_image, sample_frames, verify_image

from .made import CARD, STORED, file_of, noise, picture


PIXELS = noise(12, 10, 3)
BAD_EXIF = b"Exif\0\0XXXX not a header"


def chunk(kind, body, checksum=None):
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def with_chunk(png, added):
    """The PNG with a chunk behind its header."""
    return png[:33] + added + png[33:]


def with_segment(jpeg, marker, body):
    """The JPEG with a segment at its beginning."""
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + jpeg[2:]


def assert_read_whole(data, pixels):
    verify_image(data)
    assert image_or_video(data) == "image"
    np.testing.assert_array_equal(np.asarray(open_image(data)), pixels)
    np.testing.assert_array_equal(sample_frames(data, 1).pixels[0], pixels)


@pytest.mark.parametrize("fmt", ["PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif", [BAD_EXIF, b"", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"]
)
def test_broken_exif_is_passed_over(fmt, exif):
    assert_read_whole(file_of(picture(PIXELS), fmt, exif=exif, lossless=True), PIXELS)


@pytest.mark.parametrize(
    "text",
    [
        ("workflow", "x" * 2_000_000, True),
        ("Raw profile type exif", "not hexadecimal", False),
        ("XML:com.adobe.xmp", '<x tiff:Orientation="6">', False),
    ],
)
def test_texts_of_a_png_are_passed_over_however_long(text):
    for add in (PngInfo.add_text, PngInfo.add_itxt):
        info = PngInfo()
        add(info, *text[:2], zip=text[2])
        assert_read_whole(file_of(picture(PIXELS), "PNG", pnginfo=info), PIXELS)


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt", b"tRNS", b"eXIf", b"gAMA", b"prVt"])
def test_a_wrong_checksum_costs_an_extra_chunk_and_not_the_image(kind):
    png = file_of(picture(PIXELS), "PNG")
    assert_read_whole(with_chunk(png, chunk(kind, b"\0\1\0\1\0\1", checksum=1)), PIXELS)


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT"])
def test_a_wrong_checksum_of_pixels_is_an_error(kind):
    png = bytearray(file_of(picture(PIXELS), "PNG"))
    place = png.index(kind)
    end = place + 4 + int.from_bytes(png[place - 4 : place], "big")
    png[end] ^= 1
    for read in (open_image, verify_image, image_or_video):
        with pytest.raises(MediaError, match=f"the checksum of its chunk {kind.decode()} is wrong"):
            read(bytes(png))


SEGMENTS = [
    *[(0xE0, body) for body in (b"JFIF\0", b"JFXX\0\x10", b"")],
    *[(0xE1, body) for body in (BAD_EXIF, b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0<broken")],
    *[(0xE2, body) for body in (b"ICC_PROFILE\0", b"ICC_PROFILE\0\x09\x01", b"MPF\0II*\0\xff\xff")],
    *[(0xED, b"Photoshop 3.0\0" + body) for body in (b"8BIM", b"8BIM\x03\xed\xff", b"")],
    *[(0xEE, b"Adobe"), (0xFE, b"\xff\xfe a comment"), (0xE7, b"anything")],
]


@pytest.mark.parametrize(("marker", "body"), SEGMENTS)
def test_broken_segments_of_a_jpeg_are_passed_over(marker, body):
    jpeg = file_of(picture(PIXELS), "JPEG")
    assert_read_whole(with_segment(jpeg, marker, body), np.asarray(open_image(jpeg)))


def test_the_first_exif_of_a_jpeg_turns_it_whatever_follows():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    lying = picture(STORED[6].repeat(8, 0).repeat(8, 1))
    jpeg = file_of(lying, "JPEG", quality=100, subsampling=0)
    turned = with_segment(jpeg, 0xE1, b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0"))
    expected = np.rot90(np.asarray(open_image(jpeg)), -1)
    np.testing.assert_array_equal(np.asarray(open_image(turned)), expected)
    later = turned[:2] + turned[2:].replace(jpeg[2:], with_segment(jpeg, 0xE1, BAD_EXIF)[2:])
    np.testing.assert_array_equal(np.asarray(open_image(later)), expected)


def test_broken_chunks_of_a_webp_are_passed_over():
    image = picture(PIXELS)
    for options in ({"icc_profile": b"broken"}, {"xmp": b'<x tiff:Orientation="6">'}):
        assert_read_whole(file_of(image, "WEBP", lossless=True, **options), PIXELS)


@pytest.mark.parametrize("tag", [282, 296, 305, 700, 33723, 34377, 34665, 34675, 34853, 65000])
@pytest.mark.parametrize("kind", [2, 3, 5, 7, 13, 99])
def test_broken_tags_of_a_tiff_are_passed_over(tag, kind):
    tiff = file_of(picture(PIXELS), "TIFF")
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    entries = [tiff[start + 2 + 12 * i :][:12] for i in range(count)]
    broken = struct.pack("<HHII", tag, kind, 2**31 - 1, 2**32 - 1)
    directory = struct.pack("<H", count + 1) + b"".join(sorted([*entries, broken])) + bytes(4)
    assert_read_whole(b"II*\0" + struct.pack("<I", len(tiff)) + tiff[8:] + directory, PIXELS)


def test_a_tiff_whose_directory_lies_in_its_pixels_is_refused():
    tiff = file_of(picture(np.full((9, 9, 3), 200, np.uint8)), "TIFF")
    (start,) = struct.unpack_from("<I", tiff, 4)
    moved = tiff[:4] + struct.pack("<I", 8 if start > 8 else len(tiff) - 99) + tiff[8:]
    with pytest.raises(MediaError, match="its directory of tags ends behind the file"):
        open_image(moved)


def test_a_png_with_two_headers_is_refused():
    png = file_of(picture(PIXELS), "PNG")
    doubled = with_chunk(png, png[8:33])
    with pytest.raises(MediaError, match="its chunk IHDR stands twice"):
        open_image(doubled)


def test_any_junk_in_metadata_leaves_the_pixels():
    rng = random.Random(5)
    png, jpeg = file_of(picture(PIXELS), "PNG"), file_of(picture(PIXELS), "JPEG")
    from_jpeg = np.asarray(open_image(jpeg))
    names = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"pHYs", b"sBIT", b"bKGD", b"cICP")
    for _ in range(60):
        junk = rng.randbytes(rng.choice((0, 1, 5, 13, 40)))
        assert_read_whole(with_chunk(png, chunk(rng.choice(names), junk)), PIXELS)
        marker = rng.choice([*range(0xE0, 0xF0), 0xFE])
        assert_read_whole(with_segment(jpeg, marker, junk), from_jpeg)


def grey_png(depth, values, transparent):
    bits = "".join(f"{value:0{depth}b}" for value in values)
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    row = int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = struct.pack(">IIBBBBB", len(values), 1, depth, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", struct.pack(">H", transparent))]
    chunks += [(b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in chunks)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_white_at_every_depth(depth):
    """Pillow compares the value of 2 and 4 bits with one that it has scaled to 8."""
    transparent = 2**depth // 3 or 0
    data = grey_png(depth, [transparent, 2**depth - 1, 0], transparent)
    expected = [255, 255, 255 if transparent == 0 else 0]
    assert np.asarray(open_image(data))[0, :, 0].tolist() == expected


def test_a_transparent_colour_of_16_bits_is_white():
    colours = struct.pack(">6H", 0x4444, 5, 6, 0x8000, 0, 0xFFFF)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", colours[:6]), (b"IDAT", zlib.compress(b"\0" + colours))]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in [*chunks, (b"IEND", b"")])
    assert np.asarray(open_image(data)).tolist() == [[[255, 255, 255], [128, 0, 255]]]


def test_grey_tiffs_of_12_bits_and_with_black_as_their_highest_value_are_scaled():
    deep = PIL.Image.fromarray(np.array([[0, 65535]], np.uint16))
    inverted = file_of(deep, "TIFF", tiffinfo={262: 0})
    assert np.asarray(open_image(inverted))[0, :, 0].tolist() == [255, 0]


def test_cmyk_and_density_of_a_jpeg_are_as_in_browsers():
    """Adobe stores ink inverted; pixels are square whatever density the file states."""
    ink = PIL.Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red = np.asarray(open_image(file_of(ink, "JPEG", quality=100)))[8, 8]
    np.testing.assert_allclose(red, (255, 0, 0), atol=1)
    for fmt in ("JPEG", "PNG"):
        assert open_image(file_of(picture(CARD), fmt, dpi=(72, 144))).size == (3, 2)


def test_a_bmp_is_known_by_more_than_two_letters():
    with pytest.raises(MediaError, match="not an image"):
        open_image(io.BytesIO(b"BM is how many a text begins, too").getvalue())
