"""Questions of an evaluation: their ids, and which ones a judge is asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unified_reward.evaluate.judges import TASK, Numbers, answers
from unified_reward.core.errors import ConfigError
from unified_reward.evaluate.questions import Question, comparisons_of, forms_to_ask, scores_of
from unified_reward.judges.registry import open_judge


NAMES = st.text(min_size=1).filter(lambda text: not {*"/|"} & {*text})


@given(
    st.lists(NAMES, min_size=1, max_size=2, unique=True).map(tuple),
    st.text(),
    st.integers(0, 99),
    st.integers(1, 99),
)
def test_an_id_is_read_as_the_question_it_was_made_of(models, prompt, place, reading):
    question = Question(models, prompt, place, reading)
    assert Question.parse(question.id) == question


def test_an_id_of_another_kind_is_no_question():
    assert Question.parse("line 7") is None


def ids(questions):
    return [question.id for question in questions]


def test_outputs_are_scored_and_meet_those_at_the_same_place():
    outputs = answers({"a": [[1, 2], 3], "b": [[1], None], "c": [[5, 5], 5]})
    forms = {TASK: ("score", "compare")}
    assert ids(scores_of(outputs, forms, 1)) == [
        *("a/p0/0", "a/p0/1", "b/p0/0", "c/p0/0", "c/p0/1", "a/p1/0", "c/p1/0")
    ]
    assert ids(comparisons_of(outputs, forms)) == [
        *("a|b/p0/0", "a|c/p0/0", "a|c/p0/1", "b|c/p0/0", "a|c/p1/0")
    ]
    assert ids(scores_of(answers({"a": [1]}), forms, 3)) == ["a/p0/0", "a/p0/0 #2", "a/p0/0 #3"]


def test_a_question_knows_whether_the_outputs_are_there():
    outputs = answers({"a": [[1, 2]], "b": [1]})
    present = ["a/p0/1", "a|b/p0/0"]
    absent = ["a|b/p0/1", "c/p0/0", "a/p1/0"]
    assert [Question.parse(name).is_of(outputs) for name in present + absent] == [True] * 2 + [
        False
    ] * 3


@pytest.mark.parametrize(
    ("judge", "by", "forms"),
    [
        (Numbers(), "both", ("score", "compare")),
        (Numbers(), "score", ("score",)),
        (Numbers(), "pairs", ("compare",)),
        (Numbers(("compare",)), "both", ("compare",)),
        (Numbers(order_free=True), "both", ("score",)),
        (Numbers(order_free=True), "pairs", ("compare",)),
    ],
)
def test_a_judge_is_asked_what_it_answers_and_no_more(judge, by, forms):
    assert forms_to_ask(judge, answers({"a": [1]}), by) == {TASK: forms}


def test_a_judge_of_nothing_of_the_kind_is_refused_with_what_it_answers():
    with pytest.raises(
        ConfigError,
        match="numbers does not judge image_understanding by score; it "
        "answers compare of image_understanding",
    ):
        forms_to_ask(Numbers(("compare",)), answers({"a": [1]}), "score")


def test_scripted_judges_answer_every_task():
    forms = forms_to_ask(open_judge("scripted:first"), answers({"a": [1]}), "both")
    assert forms == {TASK: ("score", "compare")}
