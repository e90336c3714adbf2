"""Known strengths are found again, and a round is fair."""

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified_reward.pairs.tournament import strengths, swiss_round


@st.composite
def games(draw, least=0):
    """Players, and some games among them; certain, even and unknown ones included."""
    players = list(range(draw(st.integers(2, 7))))
    pairs = st.sampled_from([*combinations(players, 2)])
    p = st.one_of(st.sampled_from([0.0, 0.5, 1.0, None]), st.floats(0, 1))
    met = draw(st.lists(pairs, min_size=least, max_size=12, unique=True))
    return players, [(a, b, draw(p)) for a, b in met]


def exact(truth):
    """Every game, with the probability Bradley and Terry give it."""
    return [
        (a, b, 1 / (1 + math.exp(truth[b] - truth[a])))
        for a, b in combinations(range(len(truth)), 2)
    ]


def test_odds_of_two_to_one_and_four_to_one_are_found_again():
    """Strengths -ln 2, 0, ln 2: neighbours win 1 in 3, the outer ones 1 in 5."""
    result = strengths([0, 1, 2], [(0, 1, 1 / 3), (1, 2, 1 / 3), (0, 2, 1 / 5)])
    assert [result[i] for i in range(3)] == pytest.approx([-math.log(2), 0, math.log(2)], abs=0.01)


@given(st.lists(st.floats(-1.5, 1.5), min_size=2, max_size=7))
def test_known_strengths_are_found_again_around_zero(values):
    truth = [value - sum(values) / len(values) for value in values]
    result = strengths([*range(len(truth))], exact(truth))
    assert [result[i] for i in range(len(truth))] == pytest.approx(truth, abs=0.05)


@given(games())
def test_strengths_change_sign_when_every_game_is_mirrored(tournament):
    players, played = tournament
    lost = [(a, b, None if p is None else 1 - p) for a, b, p in played]
    turned = [(b, a, p) for a, b, p in lost[::-1]]
    result, mirrored = strengths(players, played), strengths(players, lost)
    assert mirrored == pytest.approx({i: -item for i, item in result.items()}, abs=1e-4)
    assert strengths(players, turned) == pytest.approx(result, abs=1e-4)


@given(games())
def test_strengths_are_finite_whatever_was_played(tournament):
    players, played = tournament
    assert all(map(math.isfinite, strengths(players, played).values()))


def test_who_never_loses_is_above_who_never_wins():
    result = strengths([7, 8, 9], [(7, 8, 1.0), (8, 9, 1.0), (7, 9, 1.0)])
    assert result[7] > result[8] > result[9]


@pytest.mark.parametrize("won", [0.0, 0.2, 0.8, 1.0])
def test_a_player_without_games_stands_near_zero(won):
    result = strengths([0, 1, 2, 3], [(0, 1, won), (0, 2, won), (0, 3, None)])
    assert abs(result[3]) < 0.5 * min(abs(result[i]) for i in range(3))


def test_nobody_is_stronger_without_games():
    assert strengths([4, 5], [(4, 5, None)]) == {4: 0, 5: 0}


@given(games())
def test_a_round_pairs_whoever_has_not_met_and_nobody_twice(tournament):
    players, played = tournament
    met = {frozenset(item[:2]) for item in played}
    pairs = swiss_round(players, played)
    playing = [item for pair in pairs for item in pair]
    assert len(playing) == len(set(playing))
    assert not met & {frozenset(pair) for pair in pairs}
    resting = set(players) - set(playing)
    assert all(frozenset(pair) in met for pair in combinations(resting, 2))


@given(st.permutations(range(9)), st.integers(0, 9))
def test_in_the_first_round_all_play_but_one_of_an_odd_number(order, n):
    pairs = swiss_round(order[:n], [])
    assert len(pairs) == n // 2
    assert [item for pair in pairs for item in pair] == order[: n - n % 2]


def test_later_rounds_pair_equals():
    """Two winners and two losers of the first round meet."""
    pairs = swiss_round([0, 1, 2, 3], [(0, 1, 0.0), (2, 3, 1.0)])
    assert {frozenset(pair) for pair in pairs} == {frozenset({1, 2}), frozenset({0, 3})}


@given(st.integers(2, 8))
def test_in_the_end_all_have_met(n):
    played = []
    for _ in range(2 * n):
        played += [(a, b, 0.5 if a + b == 5 else 1.0) for a, b in swiss_round([*range(n)], played)]
    assert {frozenset(item[:2]) for item in played} == {*map(frozenset, combinations(range(n), 2))}
    assert len(played) == n * (n - 1) / 2
