"""Samples, verdicts and scales, and the values that they refuse."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.verdicts import preferences
from unified_reward.core.errors import (
    ConfigError,
    DataError,
    MediaError,
    ModelError,
    ServerError,
    UnifiedRewardError,
    UnparsedError,
)
from unified_reward.core.samples import Image, Sample, Task, Video, check_context
from unified_reward.core.verdicts import Preferred, Scale, Score


A, B, CLIP = Image("a.png"), Image("b.png"), Video("c.mp4")


def test_an_answer_to_a_question_of_text_alone_is_a_sample_and_needs_an_image_where_told():
    sample = Sample(Task.IMAGE_UNDERSTANDING, "Is it?", ("yes",))
    with pytest.raises(DataError, match="image_understanding needs the image or video it is about"):
        check_context(sample.task, sample.context)
    check_context(sample.task, (A,))
    check_context(Task.VIDEO_GENERATION, ())


@pytest.mark.parametrize("n", [0, 3])
def test_a_sample_has_one_candidate_or_two(n):
    with pytest.raises(DataError, match=rf"one candidate \(score\) or two \(compare\), not {n}"):
        Sample(Task.IMAGE_GENERATION, "x", (A,) * n)


@pytest.mark.parametrize(
    ("task", "candidate", "context", "result"),
    [
        (Task.IMAGE_UNDERSTANDING, A, (B,), "a candidate of image_understanding is an answer"),
        (Task.VIDEO_UNDERSTANDING, CLIP, (CLIP,), "a candidate of video_understanding is an ans"),
        (Task.IMAGE_GENERATION, "words", (), "a candidate of image_generation is an image"),
        (Task.VIDEO_UNDERSTANDING, "yes", (), "video_understanding needs the image or video"),
        (Task.IMAGE_EDITING, A, (), "image_editing needs the image or video"),
    ],
)
def test_a_sample_that_does_not_suit_its_task_is_refused(task, candidate, context, result):
    with pytest.raises(DataError, match=result):
        Sample(task, "x", (candidate,), context)


def test_text_in_place_of_the_candidates_is_refused_and_not_spread():
    with pytest.raises(DataError, match=r"such as \('yn',\), not the text 'yn'"):
        Sample(Task.IMAGE_UNDERSTANDING, "q", "yn", (Image("a.png"),))


def test_swapping_exchanges_the_candidates_and_nothing_else():
    sample = Sample(Task.IMAGE_EDITING, "make it red", (A, B), (Image("before.png"),), "hue", "7")
    swapped = sample.swapped()
    assert swapped.candidates == (B, A)
    assert swapped.swapped() == sample
    assert (swapped.prompt, swapped.context, swapped.criteria, swapped.id) == (
        *("make it red", (Image("before.png"),), "hue", "7"),
    )


def test_one_candidate_is_scored_and_two_are_compared():
    assert Sample(Task.IMAGE_GENERATION, "x", (A,)).form == "score"
    assert Sample(Task.IMAGE_GENERATION, "x", (A, B)).form == "compare"


def test_media_are_equal_by_path_or_bytes_and_kind():
    assert Image(Path("a")) == Image(Path("a"))
    assert hash(Image(b"a")) == hash(Image(b"a"))
    assert Image("a") != Image("b")
    assert Image("a") != Video("a")
    assert len({Image("a"), Image("a"), Video("a")}) == 2


def test_pixels_in_memory_are_equal_only_to_themselves():
    pixels = np.zeros((2, 2, 3), np.uint8)
    item = Image(pixels, "HWC")
    assert item == Image(pixels, "HWC")
    assert hash(item) == hash(Image(pixels, "HWC"))
    assert item != Image(pixels.copy(), "HWC")


def test_an_array_without_a_layout_is_refused_with_the_layouts_there_are():
    with pytest.raises(MediaError, match=r"shape \(2, 2, 3\) needs a layout: 'HWC' or 'CHW'"):
        Image(np.zeros((2, 2, 3), np.uint8))


@settings(deadline=None)
@given(st.integers(-50, 50), st.integers(1, 40), st.sampled_from([0.1, 0.5, 1.0, 10.0]))
def test_the_steps_of_a_scale_begin_and_end_at_its_sides(low, count, step):
    steps = Scale(low, low + count * step, step).steps()
    assert len(steps) == count + 1
    assert steps[0] == low
    assert steps[-1] == pytest.approx(low + count * step)


@pytest.mark.parametrize("scale", [Scale(None, 5, 1), Scale(1, None, 1), Scale(1, 5)])
def test_an_open_scale_has_no_steps(scale):
    with pytest.raises(ValueError, match="has no steps"):
        scale.steps()


@pytest.mark.parametrize("value", [0.9, 5.1, math.nan, math.inf, -math.inf])
def test_what_lies_outside_a_scale_or_is_no_number_is_not_in_it(value):
    assert value not in Scale(1, 5)


def test_an_open_side_takes_any_finite_number():
    assert 1e9 in Scale(0, None)
    assert -0.1 not in Scale(0, None)
    assert math.inf not in Scale(None, None)


def test_a_scale_is_named_by_its_sides():
    assert str(Scale(1, 5)) == "1 to 5"
    assert str(Scale(None, 2.5)) == "open to 2.5"


@settings(deadline=None)
@given(st.floats(-100, 100), st.floats(0.01, 100), st.floats(0, 1))
def test_a_normalized_score_is_its_place_on_the_scale(low, width, share):
    score = Score(low + share * width, Scale(low, low + width))
    assert score.normalized == pytest.approx(share, abs=1e-6)


def test_a_score_on_an_open_scale_has_no_normalized_value():
    assert Score(7.3, Scale(None, None)).normalized is None
    assert Score(7.3, Scale(0, None)).normalized is None


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (1.2, -0.2, 0.0), (0, 0, 0), (math.nan,) * 3])
def test_what_is_no_distribution_is_no_preference(shares):
    with pytest.raises(ValueError, match="probabilities must be >= 0 and sum to 1"):
        Preferred(*shares)


@pytest.mark.parametrize(
    ("shares", "winner", "probability"),
    [
        ((0.6, 0.1, 0.3), "first", 0.65),
        ((0.3, 0.1, 0.6), "second", 0.35),
        ((0.3, 0.4, 0.3), "tie", 0.5),
        ((0.4, 0.4, 0.2), "tie", 0.6),
        ((0.5, 0.0, 0.5), "tie", 0.5),
    ],
)
def test_the_winner_is_the_most_probable_and_an_equality_is_a_tie(shares, winner, probability):
    verdict = Preferred(*shares)
    assert verdict.winner == winner
    assert verdict.probability == pytest.approx(probability)


@settings(deadline=None)
@given(preferences())
def test_mirroring_exchanges_the_sides_and_twice_is_nothing(verdict):
    mirrored = verdict.mirrored()
    other = {"first": "second", "tie": "tie", "second": "first"}
    assert mirrored.winner == other[verdict.winner]
    assert mirrored.probability == pytest.approx(1 - verdict.probability)
    again = mirrored.mirrored()
    assert again.aspects == pytest.approx(verdict.aspects)
    assert (again.p_first, again.p_tie, again.p_second) == (
        *(verdict.p_first, verdict.p_tie, verdict.p_second),
    )


def test_consistent_is_unknown_for_one_order_and_tells_two_apart():
    first, second = Preferred(1, 0, 0), Preferred(0, 0, 1)
    assert first.consistent is None
    assert Preferred(1, 0, 0, orders=(first, first)).consistent is True
    assert Preferred(0.5, 0, 0.5, orders=(first, second)).consistent is False


def test_every_error_is_caught_by_the_one_base():
    for error in (ConfigError, MediaError, DataError, ModelError, UnparsedError):
        assert error.__mro__[1] is UnifiedRewardError
    assert issubclass(ServerError, ModelError)
