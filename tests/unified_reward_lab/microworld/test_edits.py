"""Edits: what an instruction makes of a scene; what obeying, ignoring and overdoing are worth."""

import numpy as np
import pytest

from unified_reward.core.samples import Task
from unified_reward_lab.microworld import (
    EDIT_KINDS,
    Edit,
    Mention,
    Scene,
    Thing,
    apply_edit,
    describe,
    edit_utility,
    make_example,
    oracle,
    random_edit,
    random_scene,
    render,
    split_of,
    true_utilities,
)
from unified_reward_lab.microworld.candidate_scenes import keyed_rng


CIRCLE = Thing("red", "circle", "small", "top left")
STAR = Thing("blue", "star", "large", "bottom right")
BOTH = Scene((CIRCLE, STAR))
GREEN = Thing("green", "circle", "small", "top left")
TO_GREEN = Edit(
    "make the red circle green", "colour", BOTH, Scene((GREEN, STAR)), Mention("green", "circle")
)


def edits(n=300):
    for i in range(n):
        rng = keyed_rng("edits", i)
        yield random_edit(random_scene(rng, is_video=False), rng), rng


def test_colours_by_hand():
    """Nine facts of the target: eight of two things and their number; one of them is asked for."""
    assert TO_GREEN.evaluate(TO_GREEN.target) == (1.0, 1.0)
    assert TO_GREEN.evaluate(BOTH) == (0.0, 1.0)
    moved = Thing("green", "circle", "small", "top right")
    assert TO_GREEN.evaluate(Scene((moved, STAR))) == (1.0, 7 / 8)
    assert TO_GREEN.evaluate(Scene((GREEN,))) == (1.0, 3 / 8)
    wrong = Scene((CIRCLE, Thing("green", "star", "large", "bottom right")))
    assert TO_GREEN.evaluate(wrong) == (0.0, 7 / 8)


def test_removing_and_adding_by_hand():
    alone = Scene((STAR,))
    gone = Edit("remove the red circle", "remove", BOTH, alone, None)
    assert gone.evaluate(alone) == (1.0, 1.0)
    assert gone.evaluate(BOTH) == (0.0, 1.0)
    assert gone.evaluate(Scene((CIRCLE,))) == (0.0, 0.0), "the other one was removed"
    added = Mention("red", "circle", "small", "top left")
    come = Edit("add a small red circle at the top left", "add", alone, BOTH, added)
    assert come.evaluate(BOTH) == (1.0, 1.0)
    assert come.evaluate(alone) == (0.0, 1.0)
    large = Thing("red", "circle", "large", "top left")
    assert come.evaluate(Scene((large, STAR))) == (4 / 5, 1.0)


def test_every_kind_is_drawn_and_changes_what_it_names():
    kinds = set()
    for edit, _ in edits():
        kinds.add(edit.kind)
        assert edit.evaluate(edit.target) == (1.0, 1.0)
        success, kept = edit.evaluate(edit.source)
        assert (success, kept) == (0.0, 1.0), edit.text
        n = len(edit.target.things) - len(edit.source.things)
        assert n == {"add": 1, "remove": -1}.get(edit.kind, 0)
    assert kinds == {*EDIT_KINDS}


def test_obeying_alone_is_worth_more_than_obeying_and_more_than_ignoring():
    for edit, rng in edits():
        utility = {
            outcome: edit_utility(*edit.evaluate(apply_edit(edit, outcome, rng)), 1.0)
            for outcome in ("right", "unchanged", "one mistake", "two mistakes")
        }
        assert utility["right"] == 1.0
        assert utility["unchanged"] == pytest.approx(0.3)
        assert utility["right"] > utility["one mistake"] > 0
        assert utility["right"] > utility["two mistakes"]


def test_the_oracle_judges_pixels_as_the_scene_is_judged():
    for i, (edit, rng) in enumerate(edits(60)):
        scene = apply_edit(edit, "one mistake", rng)
        read = oracle.read(np.asarray(render(scene, seed=i)))
        assert edit.evaluate(read) == edit.evaluate(scene)


@pytest.mark.parametrize("split", ["train", "test"])
def test_items_show_the_source_and_are_labelled_by_their_utilities(split):
    winners = []
    for i in range(150):
        example = make_example(Task.IMAGE_EDITING, "compare", split=split, seed=3, index=i)
        (source,) = example.sample.context
        scene = oracle.read(np.asarray(source.source))
        assert split_of(f"{example.sample.prompt}: {describe(scene)}") == split
        first, second = true_utilities(example)
        gap = first - second
        wanted = "tie" if abs(gap) <= 0.02 + 1e-9 else "first" if gap > 0 else "second"
        assert example.target.winner == wanted
        winners.append(wanted)
    assert 3 <= winners.count("tie") <= 35
    assert min(winners.count("first"), winners.count("second")) > 40


def test_scored_items_say_both_axes():
    scores = []
    for i in range(100):
        example = make_example(Task.IMAGE_EDITING, "score", split="test", seed=3, index=i)
        axes = example.target.aspects
        assert {*axes} == {"success", "kept"}
        clean = 0.7 * axes["success"] + 0.3 * axes["kept"]
        assert 0.7 * clean - 1e-9 <= example.target.score <= clean + 1e-9
        scores.append(example.target.score)
    assert max(scores) == 1.0
    assert len({round(example, 2) for example in scores}) > 15
