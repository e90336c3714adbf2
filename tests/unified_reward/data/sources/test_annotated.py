from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unified_reward.data.sources.reading import read, reasons, records
from unified_reward.core.samples import Image, Task
from unified_reward.core.verdicts import Failed, Scale
from unified_reward.data.sources import SOURCES, annotated
from unified_reward.data.sources.streams import Raw


SCORE = SOURCES["annotated.image_generation.score"]
VOTE = SOURCES["annotated.image_generation.compare"]


def rated(annotator, score, image="a.png", **more):
    return {"prompt": "a pier", "image": image, "annotator": annotator, "score": score} | more


def voted(annotator, vote, prompt="a pier", **more):
    row = {"prompt": prompt, "image_a": "a.png", "image_b": "b.png"}
    return row | {"annotator": annotator, "vote": vote} | more


def raws(rows):
    return [Raw(i, row) for i, row in enumerate(rows, 1)]


def test_ratings_of_an_item_become_their_mean_wherever_its_rows_lie(tmp_path):
    rows = [rated("x", 5), rated("x", 1, "b.png"), rated("y", "2", aspect_style=3)]
    found = list(records(read(tmp_path, SCORE.name, *rows)).values())
    assert [entry.sample.candidates for entry in found] == [
        (Image(tmp_path / "a.png"),),
        (Image(tmp_path / "b.png"),),
    ]
    assert found[0].target.score == 3.5
    assert found[0].target.aspects == {"style": 0.5}
    assert found[0].target.scale == Scale(1.0, 5.0)
    assert found[1].target.score == 1.0


@pytest.mark.parametrize(
    ("votes", "winner"),
    [
        (["a"], "first"),
        (["a", "b", "b"], "second"),
        (["a", "b"], "tie"),
        (["tie", "a"], "tie"),
        (["a", "b", "tie"], "tie"),
        (["tie", "tie", "b"], "tie"),
        (["a", "a", "b", "tie"], "first"),
    ],
)
def test_majority_wins_and_an_even_split_is_a_tie(tmp_path, votes, winner):
    rows = [voted(str(i), vote) for i, vote in enumerate(votes)]
    [record] = records(read(tmp_path, VOTE.name, *rows)).values()
    assert record.target.winner == winner


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("form", ["score", "compare"])
def test_every_task_has_its_columns(tmp_path, task, form):
    row = {"prompt": "p", "annotator": 1, "score": 3, "vote": "b", "source_image": "s.png"}
    row |= {name: f"{name}.png" for name in ("image", "image_a", "image_b")}
    row |= {name: f"{name}.mp4" for name in ("video", "video_a", "video_b")}
    row |= {name: name for name in ("answer", "answer_a", "answer_b")}
    [record] = records(read(tmp_path, f"annotated.{task.value}.{form}", row)).values()
    assert record.task is task
    assert record.sample.form == form
    answers = {"score": ("answer",), "compare": ("answer_a", "answer_b")}[form]
    if task in (Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING):
        assert record.sample.candidates == answers
    visible = {
        Task.IMAGE_UNDERSTANDING: ["image.png"],
        Task.VIDEO_UNDERSTANDING: ["video.mp4"],
        Task.IMAGE_EDITING: ["s.png"],
    }
    assert [entry.source.name for entry in record.sample.context] == visible.get(task, [])


@pytest.mark.parametrize(
    ("row", "result"),
    [
        (rated("z", 6), "6 is not a number on the scale 1 to 5"),
        (rated("z", "good"), "'good' is not a number"),
        (rated("z", 3, aspect_style=0), "0 is not a number"),
        (rated("z", None), "nothing in column score"),
        (rated("x", 4), "annotator 'x' judged item 'i' already"),
        (rated("", 4), "nothing in column annotator"),
        (rated("z", 4, image=None), "nothing in column image"),
        (rated("z", 4, prompt="else"), "id 'i' has other content in row 1"),
    ],
)
def test_a_wrong_rating_costs_itself_and_not_its_item(tmp_path, row, result):
    rows = read(
        tmp_path, SCORE.name, rated("x", 2, id="i"), row | {"id": "i"}, rated("y", 4, id="i")
    )
    assert records(rows)["i"].target.score == 3.0
    [(line, why)] = reasons(rows)
    assert line == 2
    assert result in why


def test_a_vote_outside_its_words_is_an_error(tmp_path):
    rows = read(tmp_path, VOTE.name, voted("x", "a"), voted("y", "A"))
    assert reasons(rows) == [(2, "a vote is a, tie, b, not 'A'")]


def test_an_item_of_too_few_annotators_is_told_and_left_out(tmp_path):
    rows = raws([rated("x", 2), rated("y", 2), rated("x", 2, "b.png")])
    strict = replace(SCORE, options={"annotators": 2})
    first, second = annotated.read(rows, strict, tmp_path)
    assert first.content.target.score == 2.0
    assert isinstance(second.content, Failed)
    assert "1 annotators of item" in second.content.error


# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), example C: four observers,
# twelve units, values missing. It gives 0.743 for the nominal and 0.849 for the interval level.
OBSERVERS = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")


def test_agreement_of_ratings_is_the_published_example():
    rows = [
        rated(str(i), int(value), f"{unit}.png")
        for i, values in enumerate(OBSERVERS)
        for unit, value in enumerate(values)
        if value != "."
    ]
    found = annotated.agreement(raws(rows), SCORE)
    assert found.alpha == pytest.approx(0.849, abs=5e-4)
    assert (found.items, found.annotators, found.ratings) == (12, 4, 41)


def test_agreement_of_votes_is_at_the_nominal_level():
    # Two annotators, three items, aa bb ab: of 6 values 3 are a and 3 are b. Observed disagreement
    # is 2 of 6 ordered pairs within items, expected 2 * 3 * 3 of 6 * 5 pairs: 1 - (1/3) / (3/5).
    votes = [("a", "a"), ("b", "b"), ("a", "b")]
    rows = [
        voted(i, vote, str(item)) for item, two in enumerate(votes) for i, vote in enumerate(two)
    ]
    found = annotated.agreement(raws(rows), VOTE)
    assert found.alpha == pytest.approx(4 / 9)


def test_agreement_of_an_aspect_is_its_own():
    rows = [rated("x", 1, aspect_style=4), rated("y", 5, aspect_style=4)]
    rows += [rated(name, 2, "b.png", aspect_style=1) for name in "xy"]
    assert annotated.agreement(raws(rows), SCORE, aspect="style").alpha == 1.0
    assert annotated.agreement(raws(rows), SCORE).alpha < 0


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([rated("x", 1), rated("x", 5, "b.png")], "no item was judged twice"),
        ([rated("x", 3), rated("y", 3), rated("x", 1, "b.png")], "everyone says the same"),
        ([rated("x", 9), rated("y", 3)], "no item was judged twice"),
        ([], "no item was judged twice"),
    ],
)
def test_undefined_agreement_is_none_with_the_reason(rows, reason):
    found = annotated.agreement(raws(rows), SCORE)
    assert found.alpha is None
    assert reason in found.reason


@given(st.lists(st.lists(st.integers(1, 5), min_size=3, max_size=3), min_size=2, max_size=6))
def test_agreement_does_not_depend_on_the_order_of_rows(table):
    rows = [
        rated(str(i), value, f"{item}.png")
        for item, values in enumerate(table)
        for i, value in enumerate(values)
    ]
    forward, backward = (annotated.agreement(raws(each), SCORE) for each in (rows, rows[::-1]))
    assert forward[1:] == backward[1:]
    assert forward.alpha == pytest.approx(backward.alpha) if forward.alpha else not backward.alpha
