"""Prompts for policies: their splits, how answers are read, and the oracle's scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified_reward.core.errors import ConfigError, MediaError
from unified_reward.core.samples import Image, Task, Video
from unified_reward_lab.microworld import (
    Caption,
    Mention,
    PolicyPrompt,
    Question,
    Reply,
    alignment,
    policy_prompt,
    random_question,
    random_reply,
    random_scene,
    read_reply,
    render,
    split_of,
)

from .scenes import IMAGE, VIDEO, scenes
from .test_questions import STYLES


TASKS = (
    Task.IMAGE_GENERATION,
    Task.VIDEO_GENERATION,
    Task.IMAGE_UNDERSTANDING,
    Task.VIDEO_UNDERSTANDING,
)
SERIES = 120
"""Prompts looked through; about a tenth of unsifted sentences would be of the other split."""
EVERY_TASK = pytest.mark.parametrize("task", TASKS)
SIZE = Question("what size is the red star?", ("small",), (("small", "large"),), ("size",))
PLACED = Question(
    "describe the picture",
    ("small", "red", "circle", "top left"),
    (("small", "large"), ("red", "blue"), ("circle", "star"), ("top left", "bottom right")),
    ("size", "colour", "shape", "place"),
    "a {} {} {} at the {}",
    is_description=True,
)


def prompt_for(target, task=Task.IMAGE_GENERATION):
    return PolicyPrompt("b", task, "", (), target)


def image(pixels):
    return Image(pixels, layout="HWC")


def pixels_of(prompt):
    return [first.source for first in prompt.context]


@EVERY_TASK
def test_a_prompt_depends_on_its_arguments_alone(task):
    first, same = (policy_prompt(task, split="test", seed=3, index=5) for _ in range(2))
    assert (first.id, first.prompt, first.target) == (same.id, same.prompt, same.target)
    for mine, other in zip(pixels_of(first), pixels_of(same), strict=True):
        assert np.array_equal(mine, other)
    changed = ({"split": "train"}, {"seed": 4}, {"index": 6})
    others = [
        policy_prompt(task, **({"split": "test", "seed": 3, "index": 5} | first))
        for first in changed
    ]
    assert len({first.id, *(other.id for other in others)}) == 4


@EVERY_TASK
def test_only_understanding_shows_something(task):
    prompt = policy_prompt(task, split="train", seed=0, index=0)
    kinds = {Task.IMAGE_UNDERSTANDING: [Image], Task.VIDEO_UNDERSTANDING: [Video]}
    assert [type(first) for first in prompt.context] == kinds.get(task, [])
    assert prompt.task is task


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("task", TASKS[:2])
def test_captions_are_of_the_split_that_is_asked_for(task, split):
    prompt = [policy_prompt(task, split=split, seed=0, index=i) for i in range(SERIES)]
    assert {split_of(first.prompt) for first in prompt} == {split}
    assert all(first.target.text == first.prompt for first in prompt)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("task", TASKS[2:])
def test_descriptions_are_of_the_split_that_is_asked_for(task, split):
    prompt = [policy_prompt(task, split=split, seed=0, index=i).target for i in range(SERIES)]
    described = [first.answer for first in prompt if first.is_description]
    assert len(described) > 3
    assert {split_of(first) for first in described} == {split}


def test_a_prompt_of_another_task_or_split_is_refused():
    with pytest.raises(ConfigError, match="image_editing"):
        policy_prompt(Task.IMAGE_EDITING, split="test", seed=0, index=0)
    with pytest.raises(ConfigError, match="dev"):
        policy_prompt(Task.IMAGE_GENERATION, split="dev", seed=0, index=0)


@pytest.mark.parametrize("style", STYLES)
@given(scenes(), st.integers(0, 2**32))
def test_a_reply_that_is_read_is_worth_what_it_was_worth(style, scene, seed):
    rng = np.random.default_rng(seed)
    question = random_question(scene, rng)
    reply = random_reply(question, style, rng, split="test")
    read = read_reply(question, reply.text)
    assert read == reply
    assert read.utility(question) == reply.utility(question)
    assert prompt_for(question).oracle_score(reply.text) == reply.utility(question)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("a small red circle at the top left", 1.0),
        ("a small red star at the top left", 0.75),
        ("a large blue star at the bottom right", 0.0),
        ("well i think that the answer is a small red circle at the top left", 0.85),
        ("a small red star at the top left as you can see if you look", 0.85 * 0.75),
        ("it is hard to say", 0.2),
    ],
)
def test_a_description_is_worth_the_share_of_its_parts_that_are_right(text, score):
    assert prompt_for(PLACED).oracle_score(text) == pytest.approx(score)


def test_space_around_and_between_words_does_not_matter():
    assert read_reply(SIZE, "  large\n") == Reply("large", ("large",))
    assert read_reply(SIZE, "i can\n not   tell") == Reply("i can not tell", ())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "red",
        "small large",
        "smallish",
        "it is small",
        "well i think that the answer is",
        "well i think that the answer is it is hard to say",
        "small as you can see if you look as you can see if you look",
    ],
)
def test_an_answer_that_says_nothing_allowed_is_worth_none_and_not_zero(text):
    assert read_reply(SIZE, text) is None
    assert prompt_for(SIZE).oracle_score(text) is None


def test_the_signs_of_patterns_are_only_signs():
    odd = Question("?", ("a.c",), (("a.c", "x|y"),), ("shape",), "({}) it is")
    assert read_reply(odd, "(a.c) it is").parts == ("a.c",)
    assert read_reply(odd, "(x|y) it is").parts == ("x|y",)
    assert read_reply(odd, "(abc) it is") is None
    assert read_reply(odd, "a.c it is") is None


def test_the_longer_of_two_values_that_begin_alike_is_read():
    names = ("red", "red star")
    prompt = Question("which?", ("red star",), (names,), ("shape",), "{} here")
    assert read_reply(prompt, "red star here").parts == ("red star",)
    assert read_reply(prompt, "red here").parts == ("red",)


@given(st.integers(0, 60), st.sampled_from(TASKS[:2]), st.integers(0, 2**32 - 1))
def test_a_drawn_scene_is_worth_its_agreement_with_the_caption(index, task, seed):
    """The scene that the prompt was made from is not known here, so any scene is drawn."""
    prompt = policy_prompt(task, split="test", seed=0, index=index)
    is_video = task is Task.VIDEO_GENERATION
    scene = random_scene(np.random.default_rng(seed), n_things=2, is_video=is_video)
    pixels = render(scene, seed=seed)
    video_or_image = Video(pixels, layout="THWC", fps=4.0) if is_video else image(pixels)
    assert prompt.oracle_score(video_or_image) == alignment(prompt.target, scene)


def test_an_image_is_worth_the_share_of_facts_that_hold():
    """Colour, shape and count of one thing: the image has two, of which one is as it says."""
    prompt = prompt_for(Caption("a red circle", (Mention("red", "circle"),)))
    assert prompt.oracle_score(image(render(IMAGE, seed=0))) == pytest.approx(2 / 3)
    both = prompt_for(Caption("", (Mention("red", "circle"), Mention("blue", "cross"))))
    assert both.oracle_score(image(render(IMAGE, seed=0))) == pytest.approx(4 / 5)


def test_a_video_is_asked_what_happens_in_it():
    moves = prompt_for(Caption("", (Mention("red", "circle", event="moves right"),)))
    falls = prompt_for(Caption("", (Mention("red", "circle", event="moves down"),)))
    video_or_image = Video(render(VIDEO, seed=0), layout="THWC", fps=4.0)
    assert moves.oracle_score(video_or_image) == pytest.approx(3 / 4)
    assert falls.oracle_score(video_or_image) == pytest.approx(2 / 4)


@pytest.mark.parametrize("shape", [(64, 64, 3), (8, 64, 64, 3)])
def test_noise_is_worth_none(shape):
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    is_video = len(shape) == 4
    prompt = policy_prompt(TASKS[is_video], split="test", seed=0, index=0)
    video_or_image = Video(noise, layout="THWC", fps=4.0) if is_video else image(noise)
    assert prompt.oracle_score(video_or_image) is None


@pytest.mark.parametrize("side", [32, 128])
def test_pixels_of_another_size_are_an_error(side):
    prompt = policy_prompt(Task.IMAGE_GENERATION, split="test", seed=0, index=0)
    with pytest.raises(MediaError, match=rf"not uint8 of \({side}, {side}, 3\)"):
        prompt.oracle_score(image(np.full((side, side, 3), 200, np.uint8)))
