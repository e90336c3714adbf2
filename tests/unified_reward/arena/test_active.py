"""Pairs in the order in which people should be asked: doubts by hand, prompts apart."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified_reward.arena.active import rank_pairs
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example, Image, Task
from unified_reward.core.verdicts import Failed, Preferred, Unparsed


def pair(name, prompt=None):
    pictures = (Image(f"{name}-a.png"), Image(f"{name}-b.png"))
    return Example(Task.IMAGE_GENERATION, prompt or f"prompt {name}", pictures, id=name)


def surely(p, *orders):
    return Preferred(p, 0.0, 1 - p, orders=tuple(surely(order) for order in orders))


def test_the_least_sure_come_first_and_a_flip_of_orders_is_full_doubt():
    """Doubts 1 - |2 p - 1|: 0.2, 0.8, 1 for the flip, although its mean is 0.75."""
    pairs = [pair("sure"), pair("unsure"), pair("flipped")]
    verdicts = [surely(0.9, 0.85, 0.95), surely(0.4), surely(0.75, 1.0, 0.49)]
    ranked = rank_pairs(pairs, {"judge": verdicts})
    assert [one.example.id for one in ranked] == ["flipped", "unsure", "sure"]
    assert [one.doubt for one in ranked] == pytest.approx([1.0, 0.8, 0.2])
    assert ranked[0].tagged("uncertainty").tags == {
        "active": "uncertainty 1.000: p 0.750 by judge (orders disagree)"
    }


def test_judges_that_disagree_come_first_by_variance():
    """Variances: 0 for two that are undecided alike, 0.16 for 0.9 and 0.1."""
    pairs = [pair("alike"), pair("split")]
    verdicts = {"a": [surely(0.5), surely(0.9)], "b": [surely(0.5), surely(0.1)]}
    ranked = rank_pairs(pairs, verdicts, "disagreement")
    assert [one.example.id for one in ranked] == ["split", "alike"]
    assert [one.doubt for one in ranked] == pytest.approx([0.16, 0.0])
    unsure = rank_pairs(pairs, verdicts, "uncertainty")
    assert [one.doubt for one in unsure] == pytest.approx([1.0, 0.2])
    with pytest.raises(ConfigError, match="disagreement is of several judges"):
        rank_pairs(pairs, {"a": verdicts["a"]}, "disagreement")


def test_a_pair_without_a_preference_of_every_judge_has_no_place():
    pairs = [pair("whole"), pair("unread"), pair("broken")]
    verdicts = {
        "a": [surely(0.6), Unparsed("?"), surely(0.6)],
        "b": [surely(0.6), surely(0.6), Failed("!")],
    }
    ranked = rank_pairs(pairs, verdicts, "disagreement")
    assert [one.example.id for one in ranked] == ["whole"]


def test_equal_doubts_have_an_order_by_seed_that_is_not_that_of_the_file():
    pairs = [pair(str(i)) for i in range(20)]
    orders = [
        [one.example.id for one in rank_pairs(pairs, {"j": [surely(0.5)] * 20}, seed=seed)]
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != [one.id for one in pairs]


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.floats(0, 1)), min_size=1, max_size=30))
def test_a_prompt_is_asked_twice_in_a_row_only_where_no_other_is_left(entries):
    pairs = [pair(str(i), prompt) for i, (prompt, _) in enumerate(entries)]
    ranked = rank_pairs(pairs, {"j": [surely(p) for _, p in entries]})
    order = [one.example for one in ranked]
    assert Counter(one.id for one in order) == Counter(one.id for one in pairs)
    places = [i for i, (a, b) in enumerate(pairwise(order)) if a.prompt == b.prompt]
    if places:
        assert len({one.prompt for one in order[places[0] :]}) == 1
    by_doubt = {one.example.id: one.doubt for one in ranked}
    for prompt in "xyz":
        doubts = [by_doubt[one.id] for one in order if one.prompt == prompt]
        assert doubts == sorted(doubts, reverse=True)
