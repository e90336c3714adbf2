import re
from collections import Counter

import pytest

from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Task
from unified_reward_lab.microworld import (
    LESSON_KINDS,
    corpus,
    exam,
    lesson,
    oracle,
    split_of,
    vocabulary,
)
from unified_reward_lab.microworld.captions import describe
from unified_reward_lab.microworld.items import TASKS


@pytest.mark.parametrize("kind", LESSON_KINDS)
def test_a_lesson_depends_on_its_arguments_alone(kind):
    first, again = (lesson(kind, seed=1, index=2) for _ in range(2))
    assert (first.question, first.answer) == (again.question, again.answer)
    assert all((a.source == b.source).all() for a, b in zip(first.media, again.media, strict=True))
    assert len(first.media) == (2 if kind.endswith("choice") else 1)


@pytest.mark.parametrize("kind", [kind for kind in LESSON_KINDS if "ch" in kind])
def test_two_valued_answers_are_balanced(kind):
    answers = Counter(lesson(kind, seed=0, index=i).answer for i in range(120))
    assert len(answers) == 2
    assert min(answers.values()) > 36  # 60 expected, standard deviation 5.5


def test_lessons_never_state_nor_show_a_test_caption():
    n_scenes = 0
    for i in range(60):
        for kind in ("image_check", "image_choice", "video_check"):
            taught = lesson(kind, seed=0, index=i)
            stated = taught.question.removesuffix("?").removeprefix("which? ")
            assert split_of(stated) == "train"
            scenes = [oracle.read(medium.source) for medium in taught.media]
            n_scenes += len([scene for scene in scenes if scene])
            assert all(split_of(describe(scene)) == "train" for scene in scenes if scene)
    assert n_scenes > 100


def test_captions_taught_are_of_the_training_split_and_what_the_image_shows():
    for i in range(30):
        taught = lesson("image_caption", seed=4, index=i)
        assert split_of(taught.answer) == "train"
        seen = oracle.read(taught.media[0].source)
        assert seen is None or describe(seen) == taught.answer


@pytest.mark.parametrize("task", TASKS)
def test_exams_show_scenes_of_the_test_split(task):
    for i in range(3):
        set_exam = exam(task, seed=0, index=i)
        scene = oracle.read(set_exam.media[0].source)
        assert scene is not None
        assert split_of(describe(scene)) == "test"


def test_the_vocabulary_is_exactly_what_the_corpus_uses():
    used = {word for text in corpus(4000, seed=0) for word in re.findall("[a-z]+", text)}
    assert used == set(vocabulary())
    assert len(vocabulary()) <= 90


@pytest.mark.parametrize("kind", ["image_grid", "video_grid"])
def test_the_grid_lesson_names_what_each_cell_holds(kind):
    for index in range(5):
        taught = lesson(kind, seed=3, index=index)
        cells = taught.answer.split(", ")
        assert len(cells) == 4
        assert 1 <= sum(one != "nothing" for one in cells) <= 2


def test_unknown_lessons_and_exams_are_refused():
    with pytest.raises(ConfigError, match="unknown lesson 'image_quiz'; there are image_grid"):
        lesson("image_quiz", seed=0, index=0)
    with pytest.raises(ConfigError, match="no task 'image_editing'; there are"):
        exam(Task.IMAGE_EDITING, seed=0, index=0)
