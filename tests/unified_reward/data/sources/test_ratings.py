import pytest

from tests.unified_reward.data.sources.reading import read, reasons, records
from unified_reward.core.samples import Image, Video
from unified_reward.core.verdicts import Scale


def clip(**more):
    row = {"id": 3, "model": "m", "prompt": "a boat", "alignment": [5, 5, 4]}
    return row | {"static_quality": [1, 2, 3], "temporal_quality": [2, 2, 2]} | more


def picture(path, scores, **more):
    row = {"prompt_id": 1, "prompt": "a red car", "img_path": path, "total_score": scores}
    elements = {"car (object)": [1, 1, 0], "red (color)": [1, 0, 0]}
    return row | {"element_score": elements} | more


def test_a_clip_has_the_mean_of_its_raters_by_aspect_and_no_overall_score(tmp_path):
    found = records(read(tmp_path, "fetv", clip()))
    target = found["3:m"].target
    assert target.score is None
    assert target.scale == Scale(1.0, 5.0)
    means = {"static_quality": 2.0, "temporal_quality": 2.0, "alignment": 14 / 3}
    assert target.aspects == means
    assert found["3:m"].sample.candidates == (Video(tmp_path / "videos/m/3.mp4"),)


@pytest.mark.parametrize(
    ("row", "result"),
    [
        (clip(alignment=[5, 6, 4]), "6 is not a number on the scale 1 to 5"),
        (clip(alignment=[5, None, 4]), "None is not a number"),
        (clip(alignment=[5, True]), "True is not a number"),
        (clip(alignment=[]), "0 annotators in column alignment"),
        (clip(alignment=4), "a list, one of each annotator, not '4'"),
        (clip(alignment=None), "nothing in column alignment"),
        ({key: value for key, value in clip().items() if key != "model"}, "in column model"),
    ],
)
def test_a_wrong_rating_costs_its_row_and_says_why(tmp_path, row, result):
    rows = read(tmp_path, "fetv", row, clip(id=4))
    assert list(records(rows)) == ["4:m"]
    [(line, why)] = reasons(rows)
    assert line == 1
    assert result in why


def test_an_element_is_shown_where_two_annotators_see_it(tmp_path):
    found = records(read(tmp_path, "evalmuse_ratings", picture("a.png", [4, 5, 5])))
    target = found["a.png"].target
    assert target.score == 14 / 3
    assert target.aspects == {"car (object)": 1.0, "red (color)": 0.0}


def test_two_annotators_are_too_few_for_evalmuse(tmp_path):
    [(_, why)] = reasons(read(tmp_path, "evalmuse_ratings", picture("a.png", [4, 5])))
    assert why == "2 annotators in column total_score, where 3 are due"


def test_the_best_is_set_against_the_worst_in_the_order_of_the_file(tmp_path):
    means = {"mid.png": [3, 3, 3], "low.png": [1, 1, 2], "top.png": [5, 5, 5], "top2.png": [5] * 3}
    rows = [picture(path, scores) for path, scores in means.items()]
    other = [picture("x.png", [4] * 3), picture("y.png", [2] * 3)]
    other = [row | {"prompt": "a tree"} for row in other]
    found = records(read(tmp_path, "evalmuse_ratings_pair", *rows, *other))
    assert {name: item.target.winner for name, item in found.items()} == {
        "low.png:top.png": "second",
        "x.png:y.png": "first",
    }
    sample = found["low.png:top.png"].sample
    assert sample.candidates == (Image(tmp_path / "low.png"), Image(tmp_path / "top.png"))


def test_a_prompt_without_two_means_is_a_bad_row_and_not_a_pair(tmp_path):
    rows = [picture("a.png", [3, 3, 3]), picture("b.png", [2, 3, 4]), picture("c.png", [9] * 3)]
    read_rows = read(tmp_path, "evalmuse_ratings_pair", *rows)
    assert records(read_rows) == {}
    assert [line for line, _ in reasons(read_rows)] == [3, 1]
