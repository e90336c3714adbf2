"""A still is an image or is refused; it never passes as a video, whatever its file claims."""

import io
import struct
import zlib

import av
import numpy as np
import PIL.Image
import pytest
from av.stream import Disposition

from unified_reward.core.errors import MediaError
from unified_reward.media import image_or_video, open_image, sample_frames, verify_image

from .clips import clip_of, frame_of
from .made import CARD, STORED, file_of, grey_steps, noise, picture


READERS = (image_or_video, open_image, verify_image, lambda file: sample_frames(file, 1))
FIELDS = CARD.repeat(32, 0).repeat(32, 1)
AVIF = {"quality": 100, "subsampling": "4:4:4"}


def with_brands(data, *brands):
    """Rename the brands of an ISO-BMFF file: the major one, and the compatible ones."""
    size = int.from_bytes(data[:4], "big")
    compatible = b"".join(brand.encode().ljust(4) for brand in brands[1:]).ljust(size - 16, b"\0")
    return data[:8] + brands[0].encode().ljust(4) + bytes(4) + compatible + data[size:]


@pytest.mark.parametrize(
    ("brands", "message"),
    [
        (("heic", "mif1", "heic"), "HEIC images are not read; PNG, JPEG, WebP, GIF"),
        (("mif1", "heic"), "MIF1 images are not read"),
        (("hevc", "msf1"), "HEVC images are not read"),
        (("isom", "mp42", "heix"), "HEIX images are not read"),
        (("jp2",), "JP2 images are not read"),
        (("jxl",), "JXL images are not read"),
        (("crx", "isom"), "CRX images are not read"),
        (("isom", "mp42"), "(not an image; PNG, JPEG|there is no video in this file)"),
        (("qt",), "(not an image; PNG, JPEG|there is no video in this file)"),
    ],
)
def test_an_image_in_the_container_of_mp4_is_refused(brands, message):
    """FFmpeg opens each of these as a video of one frame."""
    still = with_brands(file_of(picture(FIELDS), "AVIF", **AVIF), *brands)
    for read in READERS:
        with pytest.raises(MediaError, match=message):
            read(still)


@pytest.mark.parametrize("brand", ["avif", "mif1"])
def test_an_avif_is_an_image(brand):
    data = with_brands(file_of(picture(FIELDS), "AVIF", **AVIF), brand, "avif", "mif1")
    assert image_or_video(data) == "image"
    verify_image(data)
    np.testing.assert_allclose(np.asarray(open_image(data)).astype(int), FIELDS, atol=3)
    assert sample_frames(data, 1).pixels.shape == (1, *FIELDS.shape)


def test_an_avif_is_refused_where_pillow_cannot_read_it(monkeypatch):
    data = file_of(picture(FIELDS), "AVIF")
    monkeypatch.setattr("PIL.features.check", lambda _: False)
    for read in READERS:
        with pytest.raises(MediaError, match=r"AVIF images are not read; .* BMP and TIFF are read"):
            read(data)


def test_hdr_images_are_refused():
    avif = file_of(picture(FIELDS), "AVIF")
    place = avif.index(b"colrnclx") + len("colrnclx") + 2
    png = file_of(picture(FIELDS), "PNG")
    pq = b"cICP\x09\x10\0\1"
    chunk = b"\0\0\0\4" + pq + zlib.crc32(pq).to_bytes(4, "big")
    for data in (avif[:place] + b"\0\x10" + avif[place + 2 :], png[:33] + chunk + png[33:]):
        for read in READERS:
            with pytest.raises(MediaError, match=r"HDR \(PQ\) is not read; tone-map it"):
                read(data)


def test_an_animated_avif_is_a_video():
    frames = [picture(frame) for frame in grey_steps(3)]
    data = file_of(frames[0], "AVIF", save_all=True, append_images=frames[1:], duration=200)
    assert image_or_video(data) == "video"
    assert sample_frames(data, 3).times_s == pytest.approx((0, 0.2, 0.4))
    assert np.asarray(open_image(data)).max() <= 1


@pytest.mark.parametrize("orientation", STORED)
def test_properties_turn_an_avif_and_its_exif_does_not(orientation):
    """Pillow writes the orientation as properties and, beside another tag, as EXIF too."""
    stored = STORED[orientation].repeat(32, 0).repeat(32, 1)
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "a long name of a maker"
    data = file_of(picture(stored), "AVIF", exif=exif.tobytes(), **AVIF)
    np.testing.assert_allclose(np.asarray(open_image(data)).astype(int), FIELDS, atol=3)
    broken = data.replace(b"MM\0*", b"XXXX").replace(b"II*\0", b"XXXX")
    assert broken != data
    np.testing.assert_allclose(np.asarray(open_image(broken)).astype(int), FIELDS, atol=3)


@pytest.mark.parametrize(
    "fmt", ["JPEG2000", "ICO", "PPM", "TGA", "DDS", "PCX", "SGI", "QOI", "EPS"]
)
def test_other_formats_of_images_are_refused(fmt):
    data = file_of(picture(noise(16, 16, 3)), fmt)
    for read in READERS:
        with pytest.raises(MediaError, match=r"not an image; PNG|neither an image nor a video"):
            read(data)


def test_an_image_with_further_images_is_its_first():
    """An MPO, or a JPEG with a gain map, holds more images than one."""
    first, second = (picture(np.full((32, 32, 3), level, np.uint8)) for level in (200, 20))
    data = file_of(first, "MPO", save_all=True, append_images=[second])
    assert image_or_video(data) == "image"
    assert open_image(data).getpixel((9, 9)) == (200, 200, 200)
    assert sample_frames(data, 2).n_source == 1


def test_the_thumbnail_of_a_raw_photograph_is_not_judged_for_it():
    data = bytearray(file_of(picture(CARD), "TIFF", tiffinfo={254: 1}))
    with pytest.raises(MediaError, match="its first page is a thumbnail, as in raw files"):
        open_image(bytes(data))


@pytest.mark.parametrize("is_first", [True, False])
def test_the_cover_of_a_film_is_not_its_video(is_first):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        cover, film = ("mjpeg", 128, "yuvj420p"), ("libx264", 64, "yuv420p")
        streams = []
        for codec, side, pix_fmt in (cover, film) if is_first else (film, cover):
            stream = output.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = side, side, pix_fmt
            if codec == "mjpeg":
                stream.disposition = Disposition.attached_pic
            streams.append(stream)
        for stream in streams:
            frame = frame_of(np.full((stream.height, stream.width, 3), 128), stream.pix_fmt)
            frame.pts = 0
            output.mux(stream.encode(frame))
            output.mux(stream.encode())
    assert sample_frames(buffer.getvalue(), 1).pixels.shape == (1, 64, 64, 3)


def test_a_movie_after_other_boxes_is_found():
    """The box ``moov`` stands at the end, behind a box whose size has 64 bits."""
    clip = clip_of([frame_of(np.full((64, 64, 3), 128), "yuv420p")], "mp4", "ffv1", {})
    size = int.from_bytes(clip[:4], "big")
    wide = struct.pack(">I4sQ", 1, b"free", 16)
    offsets = clip.index(b"stco") + 12
    moved = int.from_bytes(clip[offsets : offsets + 4], "big") + len(wide)
    clip = clip[:offsets] + moved.to_bytes(4, "big") + clip[offsets + 4 :]
    assert image_or_video(clip[:size] + wide + clip[size:]) == "video"
    assert sample_frames(clip[:size] + wide + clip[size:], 1).n_source == 1


@pytest.mark.parametrize("size", [0, 7, 2**63, 2**64 - 1])
def test_boxes_of_impossible_sizes_end_the_search(size):
    data = b"\0\0\0\x10ftypisom\0\0\0\0" + struct.pack(">I4sQ", 1, b"free", size) + bytes(100)
    for read in (image_or_video, lambda file: sample_frames(file, 1)):
        with pytest.raises(MediaError, match=r"neither an image nor a video|no video"):
            read(data)
