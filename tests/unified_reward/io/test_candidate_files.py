"""Candidates as files: lossless, named as the caller says, or by their content."""

import numpy as np
import PIL.Image
import pytest

from unified_reward import media
from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example, Image, Task, Video
from unified_reward.io.candidate_files import save, store


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("name", ["new/image.png", "new/image"])
def test_an_image_is_saved_as_png_without_loss(tmp_path, name):
    pixels = noise(3, 7, 9)
    saved = save(Image(pixels, "CHW"), tmp_path / name)
    assert saved == Image(tmp_path / "new" / "image.png")
    with PIL.Image.open(saved.source) as image:
        assert image.format == "PNG"
        assert (np.asarray(image) == pixels.transpose(1, 2, 0)).all()


def test_a_video_is_saved_as_mp4_without_loss_at_its_rate(tmp_path):
    pixels = noise(4, 16, 24, 3)
    frames = tuple(Image(frame, "HWC") for frame in pixels)
    videos = {
        "array": (Video(pixels, "THWC", fps=4), 4),
        "channels": (Video(pixels.transpose(0, 3, 1, 2), "TCHW", fps=5), 5),
        "frames": (Video(frames), 8),
    }
    for name, (video, fps) in videos.items():
        saved = save(video, f"{tmp_path}/{name}.mp4")
        read = media.sample_frames(saved, 4)
        assert (read.pixels == pixels).all()
        assert read.times_s == pytest.approx([i / fps for i in range(4)])
        again = save(saved, f"{tmp_path}/again.mp4")
        assert media.frame_times(again) == pytest.approx(read.times_s), "a file keeps its rate"


def test_a_list_is_numbered_and_leaves_out_what_was_withheld(tmp_path):
    black = Image(np.zeros((8, 8, 3), np.uint8), "HWC")
    saved = save([black, None, black], tmp_path / "out")
    assert saved == [Image(tmp_path / "out" / "0.png"), None, Image(tmp_path / "out" / "2.png")]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"0.png", "2.png"}
    assert save(["a star", "ein Stern\n"], tmp_path / "answers") == ["a star", "ein Stern\n"]
    assert (tmp_path / "answers" / "1.txt").read_bytes() == b"ein Stern\n"


def test_another_suffix_is_refused_since_the_file_would_not_be_lossless(tmp_path):
    with pytest.raises(DataError, match=r"a\.jpg: this is written as \.png"):
        save(Image(np.zeros((8, 8, 3), np.uint8), "HWC"), tmp_path / "a.jpg")
    assert not [*tmp_path.iterdir()]


def test_media_in_memory_are_stored_once_and_files_are_left_where_they_are(tmp_path):
    source = save(Image(noise(8, 8, 3), "HWC"), tmp_path / "source.png")
    pixels = [Image(noise(8, 8, 3), "HWC") for _ in range(2)]
    mixed = (pixels[0], "and", source)
    example = Example(Task.IMAGE_EDITING, "brighter", (*pixels, mixed), (source,), id="e")
    stored = store(example, tmp_path)
    first, second, (part, text, file) = stored.candidates
    assert first == second == part
    assert (text, file, stored.context) == ("and", source, (source,))
    assert [*(tmp_path / "media").iterdir()] == [first.source]
    assert (np.asarray(media.open_image(first)) == pixels[0].source).all()
