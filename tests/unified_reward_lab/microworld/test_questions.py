import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified_reward_lab.microworld import (
    Question,
    Reply,
    describe,
    random_question,
    random_reply,
    vocabulary,
)
from unified_reward_lab.microworld.questions import description_question

from .scenes import IMAGE, VIDEO, scenes


STYLES = ("right", "partly", "wrong", "padded right", "padded wrong", "evasive")
CONTENT = Question(
    "what is at the top left?",
    ("small", "red", "circle"),
    (("small", "large"), ("red", "blue"), ("circle", "star")),
    ("size", "colour", "shape"),
    "{} {} {}",
)


def question_answers(scene, n=400):
    rng = np.random.default_rng(0)
    return {q.text: q.answer for q in (random_question(scene, rng) for _ in range(n))}


def test_answers_about_an_image_are_right():
    answers = question_answers(IMAGE)
    expected = {
        "what colour is the star?": "blue",
        "what shape is the red object?": "circle",
        "what size is the blue star?": "large",
        "where is the red circle?": "top left",
        "how many objects are there?": "two",
        "is there a red circle?": "yes",
        "what is at the bottom right?": "large blue star",
        "which object is on the left?": "red circle",
        "which object is at the bottom?": "blue star",
        "describe the picture": "a small red circle at the top left"
        " and a large blue star at the bottom right",
    }
    assert expected.items() <= answers.items()
    assert {a for q, a in answers.items() if q.startswith("is there")} == {"yes", "no"}


def test_answers_about_a_video_are_right():
    answers = question_answers(VIDEO)
    expected = {
        "what happens to the red circle?": "it moves right",
        "what happens to the blue star?": "it stays still",
        "which way does the red circle move?": "right",
        "which object moves right?": "red circle",
    }
    assert expected.items() <= answers.items()


@given(scenes(), st.integers(0, 2**32), st.sampled_from(STYLES))
def test_replies_are_worth_what_their_style_says(scene, seed, style):
    rng = np.random.default_rng(seed)
    question = random_question(scene, rng)
    reply = random_reply(question, style, rng, split="test")
    worth = reply.utility(question)
    exact = {"right": 1.0, "wrong": 0.0, "padded right": 0.85, "padded wrong": 0.0, "evasive": 0.2}
    if style in exact:
        assert worth == exact[style]
    else:
        assert 0 <= worth < 1
    assert (reply.text == question.answer) == (style == "right")
    assert set(f"{question.text} {reply.text}".replace("?", " ").split()) <= set(vocabulary())


def test_a_part_answer_is_worth_its_right_share_and_padding_costs():
    partly = Reply("small red star", ("small", "red", "star"))
    padded = Reply("well small red star", ("small", "red", "star"), is_padded=True)
    assert partly.utility(CONTENT) == pytest.approx(2 / 3)
    assert padded.utility(CONTENT) == pytest.approx(0.85 * 2 / 3)
    assert partly.utility(CONTENT, ignoring="shape") == 1.0


@given(scenes())
def test_the_right_answer_to_describe_is_the_description(scene):
    assert description_question(scene).answer == describe(scene)
