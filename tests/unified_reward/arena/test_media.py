import io

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest

from tests.unified_reward.arena.made import item
from unified_reward.arena import media as arena_media
from unified_reward.arena.media import MediaStore
from unified_reward.core.errors import MediaError
from unified_reward.core.samples import Image


@pytest.fixture
def store(tmp_path):
    (tmp_path / "converted").mkdir()
    return MediaStore([item("i0", tmp_path)], "key", tmp_path / "converted")


def test_names_reveal_nothing_and_need_the_key(store, tmp_path):
    first, second = item("i0", tmp_path).example.candidates
    names = [store.name(first), store.name(second)]
    assert len(set(names)) == 2
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in names)
    assert MediaStore([], "other key", tmp_path).name(first) != names[0]
    assert MediaStore([], "key", tmp_path).name(first) == names[0], "the same after a restart"


def test_nothing_but_the_media_of_the_items_can_be_read(store, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes((tmp_path / "i0-a.png").read_bytes())
    for name in (store.name(Image(secret)), "i0-a.png", "../i0-a.png", str(secret), ""):
        assert store.file(name) is None


def test_an_image_is_sent_as_its_pixels_without_what_is_written_beside_them(tmp_path):
    pair = item("i0", tmp_path)
    path = pair.example.candidates[0].source
    about = PIL.PngImagePlugin.PngInfo()
    about.add_text("parameters", "Model: secret-generator")
    with PIL.Image.open(path) as image:
        image.load()
    image.save(path, pnginfo=about)
    assert b"secret-generator" in path.read_bytes()
    store = MediaStore([pair], "key", tmp_path)
    sent = store.file(store.name(Image(path)))
    content = sent.path.read_bytes()
    assert sent.media_type == "image/png"
    assert b"secret-generator" not in content
    with PIL.Image.open(io.BytesIO(content)) as after:
        np.testing.assert_array_equal(np.asarray(after), np.asarray(image))


def test_a_large_image_is_shrunk(tmp_path, monkeypatch):
    monkeypatch.setattr(arena_media, "MAX_PIXELS", 16)
    store = MediaStore([item("i0", tmp_path)], "key", tmp_path)
    with PIL.Image.open(store.file(store.name(Image(tmp_path / "i0-a.png"))).path) as image:
        assert image.size == (4, 4)


def test_a_file_is_converted_once_and_a_broken_one_is_an_error(store, tmp_path):
    first, second = (Image(tmp_path / f"i0-{side}.png") for side in "ab")
    kept = store.file(store.name(first))
    first.source.unlink()
    assert store.file(store.name(first)) == kept
    assert kept.path.stat().st_mtime == 0, "when a file was converted tells on which side it stands"
    second.source.write_bytes(b"no image")
    with pytest.raises(MediaError, match=r"i0-b\.png"):
        store.file(store.name(second))
