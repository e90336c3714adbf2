import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified_reward_lab.microworld import (
    Caption,
    Mention,
    Relation,
    Scene,
    Thing,
    alignment,
    describe,
    elements,
    facts,
    random_caption,
    split_of,
    vocabulary,
)

from .scenes import IMAGE, VIDEO, scenes


BOTH = Caption(
    "a small red circle left of a blue star",
    (Mention("red", "circle", size="small"), Mention("blue", "star")),
    Relation("left of", 0, 1),
)


def test_a_true_caption_aligns_fully():
    assert alignment(BOTH, IMAGE) == 1.0


def test_alignment_is_the_share_of_true_facts():
    """Facts: red, circle, small, blue, star, left of, two objects. Made large and green: 5 of 7."""
    changed = Scene((Thing("green", "circle", "large", "top left"), IMAGE.things[1]))
    assert alignment(BOTH, changed) == pytest.approx(5 / 7)


def test_exchanged_colours_are_not_forgiven():
    """A blue circle left of a red star. Laid straight: circle, small, star, left of, count = 5 of
    7. Laid across: red and blue, count = 3 of 7. The better one counts."""
    changed = Scene(
        (
            Thing("blue", "circle", "small", "top left"),
            Thing("red", "star", "large", "bottom right"),
        )
    )
    assert alignment(BOTH, changed) == pytest.approx(5 / 7)


def test_a_missing_thing_fails_all_its_facts_the_relation_and_the_count():
    """Without the star: red, circle, small hold; blue, star, left of and the count do not."""
    assert alignment(BOTH, Scene(IMAGE.things[:1])) == pytest.approx(3 / 7)


def test_a_surplus_thing_fails_the_count_alone():
    changed = Scene((*IMAGE.things, Thing("green", "cross", "small", "top right")))
    assert alignment(BOTH, changed) == pytest.approx(6 / 7)


def test_the_colour_of_a_turning_thing_is_the_colour_before():
    turning = Scene((Thing("red", "star", "small", "top left", "turns blue"),), is_video=True)
    before = Caption("", (Mention("red", "star", event="turns blue"),))
    after = Caption("", (Mention("blue", "star", event="turns blue"),))
    assert alignment(before, turning) == 1.0
    assert alignment(after, turning) == pytest.approx(3 / 4)


def test_a_wrong_event_is_one_fact():
    caption = Caption("", (Mention("red", "circle", event="moves down"), Mention("blue", "star")))
    assert alignment(caption, VIDEO) == pytest.approx(5 / 6)
    assert alignment(caption, VIDEO, ignoring="event") == 1.0


def test_elements_name_each_fact_and_join_colour_with_shape():
    changed = Scene((Thing("green", "circle", "small", "top right"), IMAGE.things[1]))
    assert elements(BOTH, changed) == {
        "red circle": 0.0,
        "small red circle": 1.0,
        "blue star": 1.0,
        "left of": 0.0,
        "two objects": 1.0,
    }


def test_a_caption_belongs_to_the_test_split_by_its_sha1():
    for text in ("a red circle", "a blue star and a green cross"):
        digest = int(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), 16)
        assert split_of(text) == ("test" if digest % 10 == 0 else "train")


@given(scenes(), st.integers(0, 2**32))
def test_drawn_captions_are_true_and_use_known_words(scene, seed):
    caption = random_caption(scene, np.random.default_rng(seed))
    assert alignment(caption, scene) == 1.0
    assert set(caption.text.split()) <= set(vocabulary())
    assert len(caption.objects) == len(scene.things)


@given(scenes(), st.integers(0, 2**32))
def test_every_asserted_fact_is_said_in_the_text(scene, seed):
    """Otherwise two equal captions could have different utilities."""
    caption = random_caption(scene, np.random.default_rng(seed))
    for mention in caption.objects:
        assert mention.phrase() in caption.text
        assert mention.event is None or mention.event in caption.text
    n_sizes = sum(mention.size is not None for mention in caption.objects)
    words = caption.text.split()
    assert words.count("small") + words.count("large") == n_sizes


@given(scenes(is_video=True), st.integers(0, 2**32))
def test_a_video_caption_always_says_what_happens(scene, seed):
    caption = random_caption(scene, np.random.default_rng(seed))
    events = {mention.event for mention in caption.objects}
    assert (scene.actor.event if scene.actor else "stays still") in events


@given(scenes())
def test_the_order_of_things_changes_neither_description_nor_alignment(scene):
    turned = Scene(scene.things[::-1], scene.is_video)
    assert describe(turned) == describe(scene)
    caption = random_caption(scene, np.random.default_rng(0))
    assert alignment(caption, turned) == 1.0


@given(scenes(is_video=False), scenes(is_video=False))
def test_ignoring_a_kind_leaves_its_facts_out(scene, other):
    caption = random_caption(scene, np.random.default_rng(1))
    assert all(fact.kind != "shape" for fact in facts(caption, other, ignoring="shape"))
    assert 0.0 <= alignment(caption, other) <= 1.0
