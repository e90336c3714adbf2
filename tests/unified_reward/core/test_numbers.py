"""A number that is not finite, or lies outside its scale, is no value at all."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified_reward.core.errors import DataError
from unified_reward.core.probability import compare_values
from unified_reward.core.requests import Answer, ValueEstimate
from unified_reward.core.samples import Pair, Target
from unified_reward.core.verdicts import Preferred, Ranking, Scale, Score


ONE_TO_FIVE = Scale(1, 5)
NOT_FINITE = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("number", NOT_FINITE)
def test_a_number_that_is_not_finite_makes_no_value(number):
    makers = [
        lambda: Score(number, Scale(None, None)),
        lambda: Score(3.0, ONE_TO_FIVE, number),
        lambda: Preferred(1.0, 0.0, 0.0, {"style": number}),
        lambda: Preferred(number, 0.0, 1.0),
        lambda: Ranking((0,), (number,), ()),
        lambda: compare_values(number, number),
        lambda: compare_values(number, 1.0),
        lambda: Scale(number, None),
        lambda: Scale(0.0, 1.0, number),
        lambda: ValueEstimate((number,)),
        lambda: ValueEstimate((0.0,), (number,)),
        lambda: Answer("", (-1.0, math.nan if number == -math.inf else number)),
    ]
    for make in makers:
        with pytest.raises(ValueError, match=r"finite number|probabilities|numbers|in \[0, 1\]"):
            make()
    for make in (
        lambda: Target(score=number),
        lambda: Target(aspects={"style": number}),
        lambda: Target(score=number, aspects={"score": 1.0}),
        lambda: Pair(0, 1, number),
        lambda: Pair(0, 1, 2.0, number),
    ):
        with pytest.raises(DataError, match="is not a finite number"):
            make()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Score(5.1, ONE_TO_FIVE), "score 5.1 is outside the scale 1 to 5"),
        (lambda: Score(-0.1, Scale(0, None)), "score -0.1 is outside the scale 0 to open"),
        (lambda: Score(3.0, ONE_TO_FIVE, -1.0), "deviation -1.0 is not a finite number >= 0"),
        (lambda: Preferred(1.0, 0.0, 0.0, {"style": 1.5}), r"1.5 of aspect 'style' is not in \[0"),
        (lambda: Ranking((0, 0), (1.0, 2.0), ()), r"\(0, 0\) does not order 2 candidates"),
        (lambda: Ranking((2,), (1.0, 2.0), ()), r"\(2,\) does not order 2 candidates"),
        (lambda: Scale(5, 1), "a scale rises from low to high, unlike 5 to 1"),
        (lambda: Scale(1, 1), "a scale rises"),
        (lambda: Scale(0, 1, 0), "the step of a scale is above 0, not 0"),
        (lambda: ValueEstimate((0.0,), (-1.0,)), "are not numbers"),
        (lambda: Answer("", (-1.0, 0.5)), "are not numbers <= 0"),
        (lambda: Answer("", (-math.inf, -math.inf)), "every choice is impossible"),
    ],
)
def test_a_number_that_means_nothing_is_refused_and_named(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ({"score": 7.0, "scale": ONE_TO_FIVE}, "score 7 is outside its scale 1 to 5"),
        ({"aspects": {"style": 9.0}, "scale": ONE_TO_FIVE}, "style 9 is outside its scale"),
    ],
)
def test_a_target_outside_its_scale_is_refused(target, reason):
    with pytest.raises(DataError, match=reason):
        Target(**target)
    assert Target(score=5.0, scale=ONE_TO_FIVE, aspects={"style": 9.0})


def test_an_impossible_choice_beside_a_possible_one_is_an_answer():
    assert Answer("", (-math.inf, 0.0)).choice_logprobs == (-math.inf, 0.0)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.floats(0, 1))
def test_rounding_never_takes_a_mean_of_a_scale_off_the_scale(low, width, share):
    high = low + width
    mean = sum([share * low, (1 - share) * high])
    assert 0 <= Score(mean, Scale(low, high)).normalized <= 1
