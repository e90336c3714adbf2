"""Every unusable row is reported with its reason."""

from collections import Counter

import pytest

from tests.unified_reward.media.made import (
    REAL,
    file_of,
    grey_steps,
    needs_real_media,
    noise,
    picture,
)
from unified_reward.core.errors import ConfigError, DataError, MediaError
from unified_reward.core.samples import Example, Image, Task, Video
from unified_reward.core.verdicts import Failed
from unified_reward.data.check import check, digest, files, gist, tally
from unified_reward.data.pack import rows_of
from unified_reward.io.rows import Row
from unified_reward.media import encode_mp4, encode_png


def row(*media, line=1):
    task = Task.IMAGE_GENERATION
    return Row(line, f"row {line}", Example(task, "", (), media, id=f"row {line}", messages=({},)))


def reasons(*rows, decode=False):
    return [item.reason for item in check(rows, decode=decode)]


PNG = encode_png(picture(noise(8, 8, 3)))
JPEG = file_of(picture(noise(64, 64, 3)), "JPEG")
MP4 = encode_mp4(grey_steps(4), 8)


def test_a_sound_row_has_no_reason_and_a_failed_one_keeps_its_own(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "a.mp4").write_bytes(MP4)
    frames = Video((Image(PNG), Image(tmp_path / "a.png")))
    sound = row(Image(tmp_path / "a.png"), Video(tmp_path / "a.mp4"), Video(MP4), frames)
    failed = Row(2, "row 2", Failed("one image where two are due", DataError("")))
    for decode in (False, True):
        assert reasons(sound, failed, decode=decode) == ["", "one image where two are due"]


def test_every_missing_medium_is_counted_and_the_first_three_named(tmp_path):
    names = [tmp_path / f"{i}.png" for i in range(5)]
    names[1].write_bytes(PNG)
    (result,) = reasons(row(Video(tuple(map(Image, names)))))
    missing = "; ".join(f"missing media: {names[i]}" for i in (0, 2, 3))
    assert result == f"{missing} and 1 more"


@pytest.mark.parametrize(
    ("medium", "result"),
    [
        (Image(b"words"), "unreadable media: <5 bytes>: not an image"),
        (Image(MP4), "not an image"),
        (Image(b""), "the file is empty"),
        (Image(PNG[:-20]), "the image is broken"),
        (Image(PNG[:60] + b"\0\0" + PNG[62:]), "the image is broken"),
        (Video(b"words"), "neither an image nor a video"),
    ],
)
def test_a_medium_that_cannot_be_opened_is_unreadable(medium, result):
    (reason,) = reasons(row(medium))
    assert reason.startswith("unreadable media: ")
    assert result in reason


@pytest.mark.parametrize("name", ["a\0.png", "x" * 5000, "https://host/a.png"])
def test_a_name_that_no_file_can_have_is_a_missing_medium(name):
    for decode in (False, True):
        assert reasons(row(Image(name)), decode=decode)[0].startswith("missing media: ")
    with pytest.raises(MediaError, match="missing media"):
        digest(Image(name))


def test_a_file_that_went_away_since_the_last_check_is_missing(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    given = row(Image(tmp_path / "a.png"))
    assert reasons(given) == [""]
    (tmp_path / "a.png").unlink()
    assert reasons(given) == [f"missing media: {tmp_path / 'a.png'}"]


def test_only_decoding_finds_a_jpeg_cut_short_which_has_no_checksum():
    cut = row(Image(JPEG[: len(JPEG) // 2]))
    assert reasons(cut) == [""]
    assert "the image is broken" in reasons(cut, decode=True)[0]


@needs_real_media
def test_only_decoding_finds_a_real_clip_that_breaks_off():
    broken = row(Video(REAL / "decord" / "corrupted.mp4"))
    assert reasons(broken, decode=True)[0].startswith("unreadable media: ")


def test_all_bad_rows_are_told_also_when_their_reasons_are_equal():
    failed = [Row(i, f"row {i}", Failed("no verdict", DataError(""))) for i in range(30)]
    assert reasons(*failed) == ["no verdict"] * 30


def test_reasons_are_counted_by_kind_in_bounded_memory():
    counts = Counter()
    for i in range(300):
        tally(counts, f"line {i}: duplicate id 'x{i}'")
        tally(counts, f"missing media: {i}.png; unreadable media: b.png")
        tally(counts, "never seen " + "x" * i)
    assert counts["line …: duplicate id …"] == 300
    assert counts["missing media"] == 300
    assert len(counts) == 2 + 120 - len("never seen ") + 1  # told apart up to 120 characters


def test_kinds_beyond_two_hundred_are_counted_together():
    counts = Counter()
    for i in range(26**2):
        tally(counts, f"{chr(97 + i // 26)}{chr(97 + i % 26)}")
    assert len(counts) == 201
    assert counts["other"] == 26**2 - 200
    assert gist("aa") == "aa"


def test_a_file_is_hashed_by_its_bytes_and_again_once_it_changed(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    assert digest(Image(path)) == digest(Image(PNG))
    path.write_bytes(PNG + b"more")
    assert digest(Image(path)) != digest(Image(PNG))
    path.unlink()
    with pytest.raises(MediaError, match=r"missing media: .*a.png"):
        digest(Image(path))


def test_frames_of_a_clip_are_files_of_their_own():
    clip, single = Video((Image("1"), Image("2"))), Video("v")
    assert [item.source for item in files([clip, single])] == ["1", "2", "v"]


def test_records_take_no_folder_for_media_and_an_unknown_source_is_named(tmp_path):
    with pytest.raises(ConfigError, match="scale and media are for published sources"):
        rows_of(tmp_path / "a.jsonl", media=tmp_path)
    with pytest.raises(ConfigError, match="no source 'hdp'"):
        rows_of(tmp_path / "a.json", "hdp")
