"""Win rates in a group: who meets whom, and the mean of what could be read."""

from itertools import combinations

import numpy as np
import pytest

from tests.tolerance import near
from unified_reward import open_judge
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.core.verdicts import Failed, Preferred, Unparsed
from unified_reward.train.group_rewards import GroupRewards
from unified_reward.train.win_rates import meetings, win_rates
from unified_reward_client import RewardSet, RewardTerm


@pytest.mark.parametrize("n", range(2, 13))
@pytest.mark.parametrize("most", [2, 3, 4, 7, 99])
def test_every_sample_meets_equally_many_others_and_nobody_twice(n, most):
    pairs = meetings(n, most)
    counts = np.bincount(np.ravel(pairs), minlength=n)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    assert all(a != b for a, b in pairs)
    lacks = min(most, n - 1) % 2 and n % 2
    assert {*counts} == {min(most, n - 1) - lacks}


def test_without_a_budget_all_pairs_meet():
    pairs = {frozenset(pair) for pair in meetings(6, 5)}
    assert pairs == {*map(frozenset, combinations(range(6), 2))}


def test_a_sample_alone_has_no_win_rate():
    (reward,), n_lost = win_rates(1, 8, [])
    assert (reward.value, n_lost) == (None, 0)
    assert reward.reason == "there is no other sample to compare with"


def test_a_win_rate_is_the_mean_probability_with_ties_half():
    """Sample 0 beats 1 by 0.8, 1 and 2 tie, 2 beats 0 by 0.5 + 0.2 / 2 = 0.6."""
    verdicts = [Preferred(0.8, 0.0, 0.2), Preferred(0.0, 1.0, 0.0), Preferred(0.5, 0.2, 0.3)]
    rewards, n_lost = win_rates(3, 2, verdicts)
    assert [reward.value for reward in rewards] == near([0.6, 0.35, 0.55])
    assert n_lost == 0


def test_comparisons_that_cannot_be_read_are_left_out_and_a_sample_with_no_other_has_no_reward():
    """In a ring of four, all comparisons of sample 1 are lost; 2 and 0 keep one of two each."""
    verdicts = [Unparsed("no letter"), Failed("broken"), Preferred(0.9, 0.0, 0.1)]
    rewards, n_lost = win_rates(4, 2, [*verdicts, Preferred(0.7, 0.0, 0.3)])
    assert [reward.value for reward in rewards] == [near(0.3), None, near(0.9), near(0.4)]
    assert n_lost == 2
    assert rewards[1].reason == "no comparison could be read: broken"


def images(n, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Sample(
            Task.IMAGE_GENERATION,
            "a red circle",
            (Image(rng.integers(0, 255, (32, 32, 3), np.uint8), "HWC"),),
        )
        for _ in range(n)
    ]


@pytest.fixture(scope="module")
def judge():
    return open_judge("tiny_judge")


def win_rewards(judge, opponents):
    terms = RewardSet([RewardTerm("tiny", form="win_rate")])
    return GroupRewards({"tiny": judge}, reward_set=terms, opponents=opponents)


def test_win_rates_of_a_judge_are_those_of_its_own_comparisons_in_both_orders(judge):
    group = images(4)
    (scores,) = win_rewards(judge, 8).score([group])
    media = [sample.candidates[0] for sample in group]
    won = np.full((4, 4), np.nan)
    for a, b in combinations(range(4), 2):
        verdict = judge.compare("a red circle", images=[media[a], media[b]])
        assert len(verdict.orders) == 2
        won[a, b], won[b, a] = verdict.probability, 1 - verdict.probability
    assert scores.values == near(np.nanmean(won, axis=1).tolist())
    assert scores.by_reward == {"tiny": scores.values}
    assert scores.lost_comparisons == 0


def test_groups_are_compared_apart_and_a_sample_that_could_not_be_made_meets_nobody(judge):
    first, second = images(3), images(2, seed=1)
    alone = win_rewards(judge, 2).score([first])[0]
    together = win_rewards(judge, 2).score([second, [first[0], None, *first[1:]]])[1]
    assert together.values == [alone.values[0], None, *map(near, alone.values[1:])]
    assert together.reasons[1] == "tiny: the sample could not be made"


def test_lost_comparisons_are_counted():
    (scores,) = win_rewards(open_judge("scripted:silent"), 8).score([images(3)])
    assert (scores.values, scores.lost_comparisons) == ([None] * 3, 3)
    assert scores.status == "failed"
