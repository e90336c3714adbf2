"""Files that cannot be opened, and what media are called in messages."""

import os
from pathlib import Path

import pytest

from unified_reward.core.errors import MediaError
from unified_reward.core.samples import Image, Video
from unified_reward.media import (
    content_hash,
    describe,
    image_or_video,
    open_image,
    sample_frames,
    verify_image,
)

from .made import CARD, file_of, picture


READERS = (
    open_image,
    verify_image,
    image_or_video,
    lambda path: sample_frames(path, 1),
    lambda path: content_hash(Image(path)),
    lambda path: content_hash(Video((Image(path),))),
)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a\0.png", "embedded null"),
        ("x" * 5000, "File name too long"),
        ("\ud800.png", "surrogates not allowed"),
        ("missing.png", "No such file"),
        ("here", "Is a directory"),
        ("here/pipe", "not a regular file"),
        ("here/loop", "Too many levels of symbolic links"),
        ("file/a.png", "Not a directory"),
        ("/dev/null", "not a regular file"),
    ],
)
def test_a_path_that_cannot_be_opened_is_a_media_error_of_one_line(name, reason, tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(folder / "pipe")  # opening it would wait for a writer
    (folder / "loop").symlink_to(folder / "loop")
    for path in (f"{tmp_path}/{name}" if name[0] != "/" else name, tmp_path / name):
        for read in READERS:
            with pytest.raises(MediaError, match=rf"cannot be opened: .*{reason}") as caught:
                read(path)
            assert str(caught.value).isprintable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_cannot_be_opened(tmp_path):
    path = tmp_path / "secret.png"
    path.touch(mode=0)
    with pytest.raises(MediaError, match="cannot be opened: Permission denied"):
        open_image(path)


def test_a_file_whose_name_is_not_utf_8_is_opened(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    with open(path, "wb") as file:  # noqa: PTH123  a name that is bytes
        file.write(file_of(picture(CARD), "PNG"))
    assert open_image(os.fsdecode(path)).size == (3, 2)
    assert open_image(Path(os.fsdecode(path))).size == (3, 2)
    assert describe(os.fsdecode(path)).endswith("/\\udcff\\udcfe.png")


@pytest.mark.parametrize(
    "url",
    [
        "https://host/a.png?size=2",
        "http://host/a.png",
        "s3://bucket/a.mp4",
        "gs://bucket/a.mp4",
        "hf://datasets/x/a.png",
        "HTTPS://host/a.png",
        "data:image/png;base64,iVBORw0KGgo=",
        "data:,text",
    ],
)
def test_a_url_is_not_a_file_and_is_named_whole(url, tmp_path):
    """Also where a row of a file put it behind the folder of that file."""
    for path in (url, Path(url), tmp_path / url):
        for read in READERS:
            with pytest.raises(MediaError) as caught:
                read(path)
            assert str(caught.value) == f"{url}: URLs are not read; give a file"


def test_names_in_messages_are_short_and_of_one_line():
    url = "data:image/png;base64," + "A" * 100_000 + "B"
    assert describe(url).startswith("data:image/png;base64,AAAA")
    assert describe(url).endswith("AB")
    assert len(describe(url)) < 200
    assert describe("folder/" * 100 + "a.png").endswith("folder/a.png")
    assert describe(Image("a\n\0b\x1b[31m\ud800.png")) == "a\\n\\x00b\\x1b[31m\\ud800.png"
    assert describe("größe 图.png") == "größe 图.png"
