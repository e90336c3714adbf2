from collections import Counter

import numpy as np
import pytest

from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Task
from unified_reward_lab.microworld import (
    HALF_WORLDS,
    HARD_WORLD,
    alignment,
    annotator,
    candidate_pool,
    generation_utility,
    items,
    make_example,
    split_of,
    true_utilities,
    vocabulary,
)
from unified_reward_lab.microworld.items import GENERATION_TASKS, TASKS, VIDEO_TASKS


CELLS = [(task, form) for task in TASKS for form in ("score", "compare")]


def pixels_of(record):
    media = (*record.sample.candidates, *record.sample.context)
    return [one.source for one in media if not isinstance(one, str)]


@pytest.mark.parametrize(("task", "form"), CELLS)
def test_an_item_depends_on_its_arguments_alone(task, form):
    first = make_example(task, form, split="test", seed=3, index=7)
    make_example(task, form, split="test", seed=3, index=6)
    again = make_example(task, form, split="test", seed=3, index=7)
    assert (first.sample.prompt, first.target) == (again.sample.prompt, again.target)
    for a, b in zip(pixels_of(first), pixels_of(again), strict=True):
        assert (a == b).all()
    assert first.sample.id == f"{task}-{form}-test-3-7"


@pytest.mark.parametrize(("task", "form"), CELLS)
def test_items_hold_the_media_of_their_task(task, form):
    sample = make_example(task, form, split="train", seed=0, index=0).sample
    assert sample.form == form
    is_generation = task in GENERATION_TASKS
    assert len(sample.context) == (0 if is_generation else 1)
    media = sample.candidates if is_generation else sample.context
    shape, layout = ((8, 64, 64, 3), "THWC") if task in VIDEO_TASKS else ((64, 64, 3), "HWC")
    assert all((one.source.shape, one.layout) == (shape, layout) for one in media)


@pytest.mark.parametrize("task", GENERATION_TASKS)
def test_prompts_belong_to_their_split(task):
    for split in ("train", "test"):
        prompts = {
            make_example(task, "score", split=split, seed=0, index=i).sample.prompt
            for i in range(40)
        }
        assert {split_of(prompt) for prompt in prompts} == {split}


@pytest.mark.parametrize("task", [Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING])
def test_no_test_description_is_ever_an_answer_in_training(task):
    texts = [
        text
        for i in range(300)
        for text in make_example(task, "compare", split="train", seed=0, index=i).sample.candidates
    ]
    descriptions = [text for text in texts if text.startswith("a ")]
    assert len(descriptions) > 10
    assert all(split_of(text) == "train" for text in descriptions)


@pytest.mark.parametrize("task", TASKS)
def test_winners_follow_the_true_utilities(task):
    for i in range(60):
        example = make_example(task, "compare", split="train", seed=1, index=i)
        first, second = true_utilities(example)
        gap = first - second
        expected = "tie" if abs(gap) <= 0.02 else "first" if gap > 0 else "second"
        assert example.target.winner == expected


def test_ties_are_rare_and_orders_balanced():
    """In 600, 48 ties are expected, standard deviation 6.6; firsts half of the rest, 11.8."""
    winners = Counter(
        make_example(
            Task.IMAGE_UNDERSTANDING, "compare", split="train", seed=2, index=i
        ).target.winner
        for i in range(600)
    )
    assert 24 <= winners["tie"] <= 75
    assert abs(winners["first"] - winners["second"]) < 95


@pytest.mark.parametrize("task", GENERATION_TASKS)
def test_a_flawless_score_has_all_elements_and_a_lower_one_may_not(task):
    records = [make_example(task, "score", split="train", seed=0, index=i) for i in range(80)]
    for record in records:
        score, found = record.target.score, record.target.aspects
        assert score is not None
        assert 0 <= score <= 1
        assert set(found.values()) <= {0.0, 1.0}
        words = {word for name in found for word in name.split()}
        assert words <= set(vocabulary())
        if score == 1.0:
            assert min(found.values()) == 1.0
        elif min(found.values()) == 1.0:
            assert 0.7 <= score < 1.0  # a flaw alone costs three tenths at most
    assert np.std([record.target.score for record in records]) > 0.15


def test_annotators_change_train_labels_but_never_media_or_test_labels():
    biased = annotator("position:2")
    for i in range(10):
        ask = {"seed": 0, "index": i}
        plain = make_example(Task.IMAGE_GENERATION, "compare", split="train", **ask)
        swayed = make_example(
            Task.IMAGE_GENERATION, "compare", split="train", annotator=biased, **ask
        )
        assert swayed.target.winner == "first"
        assert swayed.tags == plain.tags
        assert (pixels_of(swayed)[1] == pixels_of(plain)[1]).all()
        exact = make_example(Task.IMAGE_GENERATION, "compare", split="test", **ask)
        biased_test = make_example(
            Task.IMAGE_GENERATION, "compare", split="test", annotator=biased, **ask
        )
        assert exact.target == biased_test.target


def test_an_annotator_blind_to_colour_scores_wrong_colours_as_right():
    blind = annotator("blind:colour")
    changed = 0
    for i in range(40):
        ask = {"split": "train", "seed": 5, "index": i}
        true = make_example(Task.IMAGE_UNDERSTANDING, "score", **ask)
        seen = make_example(Task.IMAGE_UNDERSTANDING, "score", annotator=blind, **ask)
        assert seen.target.score >= true.target.score
        changed += seen.target.score > true.target.score
        if "colour" not in true.sample.prompt and len(true.sample.candidates[0].split()) == 1:
            assert seen.target.score == true.target.score
    assert changed


def test_hard_items_show_three_things():
    sample = make_example(
        Task.IMAGE_GENERATION, "score", split="train", seed=0, index=0, world=HARD_WORLD
    ).sample
    assert sample.prompt.split().count("a") - sample.prompt.startswith("a picture") == 3
    assert sample.id.endswith("-hard")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("form", ["score", "compare"])
def test_items_of_one_half_never_speak_of_the_other(task, form):
    own, other = HALF_WORLDS["a"], HALF_WORLDS["b"]
    strange = {*other.colours, *other.shapes, "cross"}
    for i in range(40):
        sample = make_example(task, form, split="train", seed=0, index=i, world=own).sample
        answers = [one for one in sample.candidates if isinstance(one, str)]
        assert not strange & set(" ".join([sample.prompt, *answers]).replace("?", "").split())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": "image_painting"}, "no task 'image_painting'; there are image_generation"),
        ({"form": "rank"}, "no form 'rank'; there are score, compare"),
        ({"split": "dev"}, "no split 'dev'; there are train, test"),
    ],
)
def test_unknown_requests_are_refused_with_what_there_is(changed, message):
    wanted = {"task": Task.IMAGE_GENERATION, "form": "score", "split": "train"} | changed
    with pytest.raises(ConfigError, match=message):
        make_example(wanted.pop("task"), wanted.pop("form"), seed=0, index=0, **wanted)


def contents(pool):
    """Pixels of media and words of answers, as what can be compared."""
    parts = (*pool.context, *pool.candidates)
    return [one if isinstance(one, str) else one.source.tobytes() for one in parts]


@pytest.mark.parametrize("task", TASKS)
def test_a_pool_depends_on_its_arguments_alone(task):
    ask = {"n": 3, "split": "test", "seed": 3}
    first = candidate_pool(task, **ask, index=7)
    other = candidate_pool(task, **ask, index=6)
    again = candidate_pool(task, **ask, index=7)
    assert (first.prompt, first.tags) == (again.prompt, again.tags)
    assert contents(first) == contents(again)
    assert contents(first) != contents(other)


@pytest.mark.parametrize("task", TASKS)
def test_a_longer_pool_starts_with_the_shorter_one(task):
    short, long = (candidate_pool(task, n=n, split="test", seed=1, index=2) for n in (3, 8))
    assert (len(short.candidates), len(long.candidates), len(true_utilities(long))) == (3, 8, 8)
    assert short.prompt == long.prompt
    assert true_utilities(short) == true_utilities(long)[:3]
    assert contents(short) == contents(long)[: len(contents(short))]


@pytest.mark.parametrize("task", GENERATION_TASKS)
def test_the_caption_of_a_pool_belongs_to_its_split(task):
    for split in ("train", "test"):
        prompts = {
            candidate_pool(task, n=1, split=split, seed=0, index=i).prompt for i in range(40)
        }
        assert {split_of(prompt) for prompt in prompts} == {split}


@pytest.mark.parametrize("task", GENERATION_TASKS)
def test_the_utilities_of_a_pool_are_those_of_what_it_shows(task, monkeypatch):
    captions, scenes = [], []

    def recording(draw, into, part):
        def recorded(*args, **options):
            result = draw(*args, **options)
            into.append(part(result))
            return result

        return recorded

    monkeypatch.setattr(
        items,
        "random_scene_with_caption",
        recording(items.random_scene_with_caption, captions, lambda r: r[1]),
    )
    monkeypatch.setattr(
        items, "add_random_flaw", recording(items.add_random_flaw, scenes, lambda r: r)
    )
    drawn_pool = candidate_pool(task, n=30, split="test", seed=0, index=0)
    (caption,) = captions
    assert drawn_pool.prompt == caption.text
    assert true_utilities(drawn_pool) == tuple(
        generation_utility(alignment(caption, one.scene), quality=1 - one.severity)
        for one in scenes
    )
    assert {bool(one.flaw) for one in scenes} == {True, False}


@pytest.mark.parametrize("task", TASKS)
def test_the_worst_and_the_best_of_a_pool_differ_widely(task):
    gaps = [
        np.ptp(true_utilities(candidate_pool(task, n=64, split="test", seed=0, index=i)))
        for i in range(5)
    ]
    assert min(gaps) > 0.4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": Task.IMAGE_EDITING}, "no task 'image_editing'; there are image_generation"),
        ({"split": "dev"}, "no split 'dev'; there are train, test"),
        ({"n": 0}, "a pool has at least one candidate, given n=0"),
    ],
)
def test_unknown_pools_are_refused_with_what_there_is(changed, message):
    wanted = {"task": Task.IMAGE_GENERATION, "n": 4, "split": "train"} | changed
    with pytest.raises(ConfigError, match=message):
        candidate_pool(**wanted, seed=0, index=0)
