"""Beliefs by hand, and the mode of the posterior as an optimum."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unified_reward.core.verdicts import Scale, Score
from unified_reward.pairs.beliefs import NOISE, SLOPE, Standing, beliefs


OPEN = Scale(None, None)


def soft(*values, sigma=0.5):
    return [[Score(value, OPEN, sigma)] for value in values]


def test_without_games_the_scores_and_their_deviations_decide():
    result = beliefs(soft(3.0, 4.0, sigma=0.5), [])
    assert result.mean.tolist() == [3.0, 4.0]
    assert np.diag(result.covariance) * result.unit**2 == pytest.approx([0.25, 0.25])
    assert result.p_above(1, 0) == pytest.approx(0.5 + 0.5 * math.erf(1 / math.sqrt(2 * 0.5)))
    assert result.p_above(0, 1) == pytest.approx(1 - result.p_above(1, 0))


def test_a_score_without_a_deviation_has_a_share_of_the_spread_that_readings_narrow():
    values = (1.0, 3.0, 5.0)
    single = beliefs([[Score(v, OPEN)] for v in values], [])
    spread = np.std(values)
    assert single.unit == pytest.approx(spread)
    assert np.diag(single.covariance) == pytest.approx([NOISE**2] * 3)
    twice = beliefs([[Score(1.0, OPEN)], [Score(3.0, OPEN)], [Score(5.0, OPEN)] * 2], [])
    assert twice.covariance[2, 2] < twice.covariance[1, 1] / 1.9
    apart = beliefs([[Score(1.0, OPEN)], [Score(3.0, OPEN)], [Score(v, OPEN) for v in (2, 8)]], [])
    assert apart.covariance[1, 1] > twice.covariance[1, 1]


def test_repeating_an_answer_with_a_distribution_tells_nothing_new():
    sure = Score(4.0, OPEN, 0.5)
    alone, again = (beliefs([[Score(3.0, OPEN, 0.5)], [sure] * n], []) for n in (1, 3))
    assert again.covariance == pytest.approx(alone.covariance)


@settings(max_examples=50)
@given(
    st.lists(st.floats(-3, 3), min_size=2, max_size=6),
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 5), st.floats(0, 1)), min_size=1, max_size=12
    ),
)
def test_the_mean_is_the_mode_of_the_posterior(values, games):
    n = len(values)
    games = [(a % n, b % n, p) for a, b, p in games if a % n != b % n]
    result = beliefs(soft(*values), games)
    slope = SLOPE / max(np.std(values), 0.5)

    def log_posterior(x):
        prior = -0.5 * sum((x[i] - values[i]) ** 2 / 0.25 for i in range(n))
        odds = [slope * (x[a] - x[b]) for a, b, _ in games]
        wins = [
            -p * math.log1p(math.exp(-d)) - (1 - p) * math.log1p(math.exp(d))
            for d, (_, _, p) in zip(odds, games, strict=True)
        ]
        return prior + sum(wins)

    best = log_posterior(result.mean)
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert log_posterior(result.mean + rng.normal(0, 0.1, n)) <= best + 1e-9
    assert np.linalg.eigvalsh(result.covariance).min() > 0


def test_draws_between_equals_change_nothing_and_wins_move_both():
    even = beliefs(soft(2.0, 2.0), [(0, 1, 0.5), (1, 0, 0.5)])
    assert even.mean.tolist() == [2.0, 2.0]
    won = beliefs(soft(2.0, 2.0), [(0, 1, 1.0)])
    assert won.mean[0] - 2.0 == pytest.approx(2.0 - won.mean[1])
    assert won.p_above(0, 1) > 0.5
    assert beliefs(soft(2.0, 2.0), [(0, 1, None)]).mean.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e6, 1e300])
def test_the_unit_of_the_score_does_not_matter(factor):
    games = [(0, 1, 0.9), (1, 2, 0.6)]
    values = (1.0, 1.2, 0.3)
    plain = beliefs(soft(*values), games)
    scaled = beliefs([[Score(v * factor, OPEN, 0.5 * factor)] for v in values], games)
    assert scaled.mean / factor == pytest.approx(plain.mean)
    assert scaled.p_above(0, 2) == pytest.approx(plain.p_above(0, 2))


def test_the_smallest_difference_that_a_score_can_have_orders_candidates():
    result = beliefs([[Score(0.0, OPEN)], [Score(5e-324, OPEN)]], [])
    assert result.p_above(1, 0) > 0.5


def test_equal_certain_scores_are_left_to_the_games():
    for sigma in (None, 0.0):
        result = beliefs([[Score(3.0, OPEN, sigma)]] * 3, [(0, 1, 1.0), (1, 0, 0.0)])
        assert result.mean[0] > 3.0 > result.mean[1]
        assert result.mean[2] == 3.0


def test_the_ends_are_two_and_doubts_begin_with_the_strongest_rival():
    standing = Standing([7, 3, 5, 9], beliefs(soft(4.0, 3.6, 3.9, 1.0, sigma=0.3), []))
    assert standing.ends == (7, 9)
    above, below = standing.doubts(0.9)
    assert above == [(7, 5), (7, 3)]
    assert below == []
    equal = Standing([0, 1], beliefs(soft(3.0, 3.0), []))
    assert sorted(equal.ends) == [0, 1]
