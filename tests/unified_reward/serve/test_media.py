import numpy as np
import pytest

from tests.unified_reward.serve.requests import grey
from unified_reward.core.samples import Image, Sample, Task, Video
from unified_reward.media import LIMITS
from unified_reward.serve.media import MediaCache


def sample(*candidates, prompt="a", **fields):
    return Sample(Task.IMAGE_GENERATION, prompt, candidates, **fields)


@pytest.fixture
def cache():
    return MediaCache(LIMITS, 8 * 8 * 3 * 2, 10_000)


def check(cache, given):
    with cache.room() as room:
        return cache.check(given, room)


def test_equal_media_are_decoded_once_while_there_is_room(cache):
    first = check(cache, sample(Image(grey(1)))).sample.candidates[0]
    assert check(cache, sample(Image(grey(1)))).sample.candidates[0] is first
    check(cache, sample(Image(grey(2)), Image(grey(3))))
    again = check(cache, sample(Image(grey(1)))).sample.candidates[0]
    assert again is not first
    assert np.array_equal(again.source, first.source)


PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
CLIP = np.stack([PIXELS] * 3)


DIFFERENT = [
    sample(Image(grey(1))),
    sample(Image(grey(1)), prompt="b"),
    sample(Image(grey(1)), criteria="colour"),
    sample(Image(grey(2))),
    sample(Image(grey(1)), Image(grey(1))),
    sample(Image(grey(1)), context=(Image(grey(1)),)),
    sample(Video(grey(1))),
    sample(Video((Image(grey(1)),))),
    sample(Image(PIXELS, "HWC")),
    sample(Image(PIXELS.reshape(3, 4, 4), "CHW")),
    sample(Image(PIXELS.transpose(1, 0, 2), "HWC")),
    sample(Video(CLIP, "THWC")),
    sample(Video(CLIP, "THWC", fps=8)),
    Sample(Task.IMAGE_UNDERSTANDING, "a", ("b",)),
    Sample(Task.IMAGE_UNDERSTANDING, "a", ("b", "")),
    Sample(Task.IMAGE_UNDERSTANDING, "ab", ("",)),
]


def test_questions_that_differ_have_keys_that_differ(cache):
    keys = {check(cache, one).key for one in DIFFERENT}
    assert len(keys) == len(DIFFERENT)


def test_the_id_of_a_sample_does_not_count(cache):
    keys = {check(cache, sample(Image(grey(1)), id=name)).key for name in "ab"}
    assert len(keys) == 1
