"""Files that are no text: what they are, and texts that only look like them."""

import io

import PIL.Image
import pytest

from tests.unified_reward.media.made import grey_steps, noise, picture
from unified_reward.io.file_kinds import N_BYTES, medium_of, refusal
from unified_reward.media import encode_mp4


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("PNG", "a PNG image"),
        ("JPEG", "a JPEG image"),
        ("WEBP", "a WEBP image"),
        ("GIF", "a GIF image"),
        ("BMP", "a BMP image"),
        ("TIFF", "a TIFF image"),
        ("AVIF", "an AVIF image"),
    ],
)
def test_images_are_named(kind, expected):
    file = io.BytesIO()
    picture(noise(8, 8, 3)).save(file, kind)
    assert medium_of(file.getvalue()[:N_BYTES]) == expected


def test_videos_are_named_and_sounds_are_not(tmp_path):
    assert medium_of(encode_mp4(grey_steps(2), 8)[:N_BYTES]) == "a video (MP4)"
    assert (
        medium_of(b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\xf7\x81\0")
        == "a video (Matroska or WebM)"
    )
    assert medium_of(b"RIFF\0\0\0\0AVI LIST") == "a video (AVI)"
    assert medium_of(b"\0\0\0\x1cftypM4A \0\0\0\0") == ""


def test_the_command_that_takes_it_is_named(tmp_path):
    file = io.BytesIO()
    PIL.Image.new("RGB", (4, 4)).save(file, "PNG")
    reason = refusal(tmp_path / "a.png", file.getvalue()[:N_BYTES])
    assert "a.png is a PNG image, not a file of text" in reason
    assert reason.endswith("a.png --prompt TEXT --judge JUDGE")


@pytest.mark.parametrize(
    "text", ["", "BMW at night\n", "RIFF of a guitar", "GIF89a is a format\n", "é" * N_BYTES]
)
def test_text_that_begins_like_a_medium_is_text(tmp_path, text):
    assert refusal(tmp_path / "a.txt", text.encode()[:N_BYTES]) == ""
