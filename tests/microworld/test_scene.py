from collections import Counter

import numpy as np
import pytest

from unified_reward.microworld import Scene, Thing, draw_scene
from unified_reward.types import DataError

from .scenes import CLIP, PICTURE


@pytest.mark.parametrize(
    ("things", "is_clip", "why"),
    [
        ([], False, "1 to 3 things, not 0"),
        (
            [("red", "star", "small", "top left"), ("red", "cross", "small", "top left")],
            True,
            "cell",
        ),
        (
            [("red", "star", "small", "top left"), ("red", "star", "large", "top right")],
            True,
            "colour and",
        ),
        ([("red", "star", "small", "top left", "moves up")], True, "impossible"),
        ([("red", "star", "large", "top left", "grows")], True, "impossible"),
        ([("red", "star", "large", "top left", "turns red")], True, "impossible"),
        ([("red", "star", "small", "top left", "grows")], False, "a picture has no events"),
        (
            [
                ("red", "star", "small", "top left", "moves right"),
                ("red", "cross", "small", "top right"),
            ],
            True,
            "share a cell",
        ),
        (
            [
                ("red", "star", "small", "top left", "turns blue"),
                ("blue", "star", "small", "top right"),
            ],
            True,
            "share colour and shape",
        ),
        (
            [
                ("red", "star", "small", "top left", "grows"),
                ("blue", "star", "small", "top right", "grows"),
            ],
            True,
            "two things have an event",
        ),
    ],
)
def test_impossible_scenes_are_refused_with_the_reason(things, is_clip, why):
    with pytest.raises(DataError, match=why):
        Scene(tuple(Thing(*thing) for thing in things), is_clip)


def test_the_state_after_an_event_is_that_of_the_event():
    thing = CLIP.things[0]
    assert thing.at_start() == PICTURE.things[0]
    assert thing.at_end() == Thing("red", "circle", "small", "top right")
    gone = Thing("red", "circle", "small", "top left", "disappears")
    assert gone.at_end() is None
    assert gone.at_start() is not None
    assert Thing("red", "circle", "small", "top left", "appears").at_start() is None


def test_a_clip_has_at_most_one_actor_and_sometimes_none():
    rng = np.random.default_rng(0)
    drawn = [draw_scene(rng, n_things=2, is_clip=True) for _ in range(800)]
    share_still = sum(scene.actor is None for scene in drawn) / len(drawn)
    assert 0.03 < share_still < 0.1  # one in sixteen is 0.0625; four standard errors are 0.034


def test_attributes_are_drawn_evenly():
    rng = np.random.default_rng(0)
    colours = Counter(
        thing.colour
        for _ in range(600)
        for thing in draw_scene(rng, n_things=2, is_clip=False).things
    )
    assert len(colours) == 6
    assert min(colours.values()) > 150  # 200 expected, standard deviation 13
