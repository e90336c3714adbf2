"""Images and videos arrive at the server as the pixels that the trainer has."""

import base64
import io

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from unified_reward import media
from unified_reward.core import samples
from unified_reward_client import Image, MediaError, Video, encode_medium, encode_png


RNG = np.random.default_rng(0)
HWC = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
THWC = RNG.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)


def decoded(row):
    """Pixels of an encoded medium, frames first."""
    if "npy" in row:
        return np.load(io.BytesIO(base64.b64decode(row["npy"])), allow_pickle=False)
    files = row["frames"] if "frames" in row else [row["image"]]
    images = [np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(file)))) for file in files]
    return np.stack(images) if "frames" in row else images[0]


@pytest.mark.parametrize("image_format", ["npy", "png"])
@pytest.mark.parametrize(
    "source",
    [
        HWC,
        HWC.transpose(2, 0, 1),
        HWC / 255,
        PIL.Image.fromarray(HWC),
        torch.tensor(HWC),
        torch.tensor(HWC.transpose(2, 0, 1) / np.float32(255)),
        Image(torch.tensor(HWC.transpose(2, 0, 1)), "CHW"),
    ],
    ids=["HWC", "CHW", "float", "PIL", "tensor", "float tensor", "named"],
)
def test_an_image_keeps_its_pixels(source, image_format):
    assert np.array_equal(decoded(encode_medium(source, image_format)), HWC)


@pytest.mark.parametrize("image_format", ["npy", "png"])
@pytest.mark.parametrize(
    "source",
    [
        THWC,
        THWC.transpose(0, 3, 1, 2),
        list(THWC),
        [PIL.Image.fromarray(frame) for frame in THWC],
        Video(torch.tensor(THWC.transpose(0, 3, 1, 2)), "TCHW"),
    ],
    ids=["THWC", "TCHW", "frames", "PIL", "tensor"],
)
def test_a_video_keeps_its_pixels(source, image_format):
    assert np.array_equal(decoded(encode_medium(source, image_format)), THWC)


def test_bfloat16_is_read_to_its_own_precision():
    tensor = torch.tensor(HWC / 255, dtype=torch.bfloat16)
    difference = decoded(encode_medium(tensor, "npy")).astype(int) - HWC
    assert np.abs(difference).max() <= 1  # 8 bits of mantissa: 1/256 of the value


def test_files_are_sent_as_they_are(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8 anything")
    row = {"image": base64.b64encode(b"\xff\xd8 anything").decode()}
    assert encode_medium(tmp_path / "a.jpg", "npy") == row
    assert encode_medium(Image(str(tmp_path / "a.jpg")), "png") == row
    assert encode_medium(Video([b"1", b"2"], fps=8), "npy") == {
        "frames": ["MQ==", "Mg=="],
        "fps": 8,
    }
    assert encode_medium("a text", "npy") == {"text": "a text"}
    with pytest.raises(MediaError, match=r"missing\.png cannot be read"):
        encode_medium(Image(tmp_path / "missing.png"), "npy")


def test_a_transparent_or_turned_image_is_what_the_library_reads():
    clear = PIL.Image.fromarray(np.dstack([HWC, np.full(HWC.shape[:2], 100, np.uint8)]), "RGBA")
    turned = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(HWC).save(turned, "PNG", exif=exif)
    for image in (clear, PIL.Image.open(turned)):
        expected = np.asarray(media.open_image(samples.Image(image)))
        sent = base64.b64decode(encode_medium(image, "png")["image"])
        assert np.array_equal(np.asarray(media.open_image(samples.Image(sent))), expected)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((3, 5, 3), np.uint8), "fits HWC and CHW; name its layout"),
        (np.zeros((3, 3, 5, 3), np.uint8), "fits THWC and TCHW; name its layout"),
        (Image(HWC, "CHW"), r"shape \(6, 5, 3\) is not RGB in CHW"),
        (np.zeros((6, 5), np.uint8), "not RGB in HWC or CHW"),
        (np.zeros((0, 5, 3), np.uint8), "not RGB"),
        (HWC.astype(np.int64), "uint8 or floating point"),
        (HWC / 127.5 - 1, r"in \[0, 1\], not -1 to"),
        (np.full((4, 4, 3), np.nan), "NaN"),
        ([HWC, HWC[1:]], "frames of one size"),
        ([], "frames of one size"),
    ],
)
def test_what_is_ambiguous_or_out_of_range_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        encode_medium(source, "npy")


def test_a_named_layout_settles_what_a_shape_leaves_open():
    pixels = RNG.integers(0, 256, (3, 5, 3), dtype=np.uint8)
    assert np.array_equal(decoded(encode_medium(Image(pixels, "HWC"), "npy")), pixels)
    turned = decoded(encode_medium(Image(pixels, "CHW"), "npy"))
    assert np.array_equal(turned, pixels.transpose(1, 2, 0))


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_png_is_lossless(pixels):
    assert np.array_equal(np.asarray(PIL.Image.open(io.BytesIO(encode_png(pixels)))), pixels)
