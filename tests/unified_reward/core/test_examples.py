"""An example as samples, as a pair, as a comparison, and back."""

from pathlib import Path

import pytest

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example, Image, Pair, Sample, Target, Task
from unified_reward.core.verdicts import Scale


A, B, C = (Image(Path(f"{name}.png")) for name in "abc")
TASK = Task.IMAGE_GENERATION
MADE = Example(TASK, "a fox", (A, B, C), (), "legs", "1", pair=Pair(2, 0, 4.0, 1.0))


def test_a_made_pair_is_one_comparison_and_a_pair_that_becomes_an_example_again():
    assert MADE.as_samples() == [Sample(TASK, "a fox", (C, A), (), "legs", "1")]
    pair = MADE.as_pair()
    assert (pair.chosen, pair.rejected, pair.chosen_score, pair.criteria) == (C, A, 4.0, "legs")
    assert pair.as_example().as_pair() == pair
    assert MADE.form == "compare"
    with pytest.raises(DataError, match=r"one candidate .* or two .*, not 3"):
        _ = MADE.sample


def test_a_vote_is_a_pair_and_a_tie_or_a_score_is_none():
    def vote(winner):
        return Example(TASK, "a fox", (A, B), id="1", target=Target(winner=winner)).as_pair()

    assert (vote("first").chosen, vote("second").chosen) == (A, B)
    assert vote("tie") is None
    assert vote(None) is None
    scored = Example(TASK, "a fox", (A,), target=Target(4, Scale(1, 5)))
    assert (scored.as_pair(), scored.as_samples()) == (None, [scored.sample])


def test_many_candidates_are_scored_each_and_a_prompt_alone_asks_nothing():
    samples = Example(TASK, "a fox", (A, B, C), criteria="legs", id="q").as_samples()
    assert [(s.id, s.candidates, s.criteria) for s in samples] == [
        ("q 0", (A,), "legs"),
        ("q 1", (B,), "legs"),
        ("q 2", (C,), "legs"),
    ]
    assert Example(TASK, "a fox").as_samples() == []


def test_a_comparison_of_a_made_pair_names_the_chosen_one_wherever_it_stands():
    places = set()
    for i in range(20):
        made = Example(TASK, "a fox", (A, B, C), id=str(i), pair=Pair(1, 2))
        compared = made.as_comparison()
        assert compared.as_pair().chosen == B
        assert compared.as_comparison() == compared
        places.add(compared.target.winner)
    assert places == {"first", "second"}


def test_a_target_in_which_nothing_is_known_is_false():
    assert not Example(TASK, "a fox").target
    assert Target(rationale="sharp")
