"""Published conversations asked as they stand: their text, their pictures, in their order."""

import pytest
from PIL import Image as Pillow

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example, Image, Target, Task, Video
from unified_reward.judges.card import Card, build_published


CARD = Card("native", frames=4)


@pytest.fixture
def frames(tmp_path):
    """Files of one colour each, so that every image is recognisable."""
    paths = [tmp_path / f"{i}.png" for i in range(16)]
    for i, path in enumerate(paths):
        Pillow.new("RGB", (8, 8), (10 * i, 0, 0)).save(path)
    return tuple(map(Image, paths))


def questions(question, *media, answer="Video 2 is better"):
    messages = ({"from": "human", "value": question}, {"from": "gpt", "value": answer})
    result = Example(
        Task.VIDEO_GENERATION,
        "",
        (),
        media,
        id="a",
        target=Target(winner="second"),
        messages=messages,
    )
    request, reply = build_published(result, CARD)
    assert reply == answer
    reds = [
        item if isinstance(item, str) else item.getpixel((0, 0))[0] // 10 for item in request.parts
    ]
    return tuple(reds)


def test_a_picture_stands_at_its_mark(frames):
    parts = questions("<image>\n <image>\nWhich?", frames[3], frames[1])
    assert parts == (3, "\n ", 1, "\nWhich?")


def test_all_published_frames_are_shown_at_one_mark_however_many_the_card_wants(frames):
    parts = questions("<image>\nWhich?", Video(frames[:8]), Video(frames[8:]))
    assert parts == (*range(16), "\nWhich?")


def test_each_clip_stands_at_its_own_mark(frames):
    parts = questions("<video>\nA <video> B", Video(frames[:2]), Video(frames[2:4]))
    assert parts == (0, 1, "\nA ", 2, 3, " B")


def test_each_frame_stands_at_its_own_mark(frames):
    assert questions("<image><image><image>", Video(frames[:3])) == (0, 1, 2)


def test_marks_that_fit_no_media_are_refused(frames):
    with pytest.raises(DataError, match="'a' has 3 media marks for 2 images"):
        questions("<image><image><image>", *frames[:2])


def test_turns_out_of_order_are_refused(frames):
    turns = ({"from": "gpt", "value": "x"}, {"from": "human", "value": "y"})
    result = Example(Task.IMAGE_GENERATION, "", (), frames[:1], id="a", messages=turns)
    with pytest.raises(DataError, match="turns of gpt, human; it must have one of human"):
        build_published(result, CARD)
