from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from unified_reward.core.errors import DataError
from unified_reward_lab.microworld import Scene, Thing, random_scene

from .scenes import IMAGE, VIDEO


STAR = Thing("red", "star", "small", "top left")
CROSS = Thing("blue", "cross", "large", "top right")


@pytest.mark.parametrize(
    ("things", "why"),
    [
        ([], "1 to 3 things, not 0"),
        ([STAR, replace(CROSS, cell="top left")], "share a cell"),
        ([STAR, replace(STAR, cell="top right")], "share colour and shape"),
        ([replace(STAR, event="moves up")], "impossible"),
        ([replace(CROSS, event="grows")], "impossible"),
        ([replace(STAR, event="turns red")], "impossible"),
        ([replace(STAR, event="moves right"), CROSS], "share a cell"),
        ([replace(CROSS, event="turns red"), replace(STAR, shape="cross")], "colour and shape"),
        ([replace(STAR, event="grows"), replace(CROSS, event="shrinks")], "two things have"),
    ],
)
def test_impossible_scenes_are_refused_with_the_reason(things, why):
    with pytest.raises(DataError, match=why):
        Scene(tuple(things), is_video=True)


def test_an_image_holds_no_event():
    with pytest.raises(DataError, match="an image has no events; pass is_video=True"):
        Scene((replace(STAR, event="grows"),))


def test_the_state_after_an_event_is_that_of_the_event():
    thing = VIDEO.things[0]
    assert thing.at_start() == IMAGE.things[0]
    assert thing.at_end() == Thing("red", "circle", "small", "top right")
    gone = Thing("red", "circle", "small", "top left", "disappears")
    assert gone.at_end() is None
    assert gone.at_start() is not None
    assert Thing("red", "circle", "small", "top left", "appears").at_start() is None


def test_a_video_has_at_most_one_actor_and_sometimes_none():
    rng = np.random.default_rng(0)
    videos = [random_scene(rng, n_things=2, is_video=True) for _ in range(800)]
    share_still = sum(scene.actor is None for scene in videos) / len(videos)
    assert 0.03 < share_still < 0.1  # one in sixteen is 0.0625; four standard errors are 0.034


def test_attributes_are_drawn_evenly():
    rng = np.random.default_rng(0)
    colours = Counter(
        thing.colour
        for _ in range(600)
        for thing in random_scene(rng, n_things=2, is_video=False).things
    )
    assert len(colours) == 6
    assert min(colours.values()) > 150  # 200 expected, standard deviation 13
