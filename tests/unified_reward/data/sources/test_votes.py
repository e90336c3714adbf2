"""Votes of an arena: majorities, stars, and what is left out."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unified_reward.arena.votes import vote, write_votes
from tests.unified_reward.data.sources.reading import reasons, records
from unified_reward.core.samples import Image
from unified_reward.core.verdicts import Scale
from unified_reward.data.pack import rows_of
from unified_reward.data.sources.votes import join_votes, trusted_raters
from unified_reward.io.vote_rows import CHOICES, WIN_SHARE, vote_counts, win_share


PEOPLE = ("ann", "bob", "cy", "dee", "eve")


def joined(folder, *choices):
    return join_votes([vote(folder, *given) for given in zip(choices, PEOPLE, strict=False)])


@pytest.mark.parametrize(
    ("choices", "winner", "tie_kind"),
    [
        (["a"], "first", None),
        (["b", "b", "a"], "second", None),
        (["a", "b"], "tie", None),
        (["a", "tie"], "tie", None),
        (["both_bad", "both_bad", "a"], "tie", "both_bad"),
        (["both_bad", "tie", "a"], "tie", None),
        (["a", "cannot_tell", "cannot_tell"], "first", None),
        (["a", "a", "tie", "b", "both_bad"], "tie", None),
    ],
)
def test_the_winner_has_most_votes_and_an_even_split_is_a_tie(tmp_path, choices, winner, tie_kind):
    example = joined(tmp_path, *choices)
    assert example.target.winner == winner
    assert example.tags.get("tie_kind") == tie_kind
    assert (example.tags["model_first"], example.tags["model_second"]) == ("new", "old")
    assert example.tags["category"] == "animals"


@given(st.lists(st.sampled_from(CHOICES), min_size=1, max_size=5))
def test_the_share_of_a_win_is_the_mean_of_the_votes_that_say_anything(choices):
    clear = [WIN_SHARE[choice] for choice in choices if choice in WIN_SHARE]
    counts = {"n": len(choices), **{choice: choices.count(choice) for choice in CHOICES}}
    assert win_share(counts) == (pytest.approx(sum(clear) / len(clear)) if clear else None)


@pytest.mark.parametrize("raters", [3, None, ["ann"], {"n": 2}, dict.fromkeys(CHOICES, "2")])
def test_raters_of_other_sources_have_no_votes_by_choice(raters):
    assert vote_counts(raters) is None
    assert win_share(raters) is None


def test_items_are_joined_and_what_tests_attention_is_left_out(tmp_path):
    votes = [
        vote(tmp_path, "a", "ann"),
        vote(tmp_path, "b", "bob"),
        vote(tmp_path, "b", "ann"),
        vote(tmp_path, "a", "ann", "gold", gold="a"),
        vote(tmp_path, "b", "ann", "i1 #2", repeats="i1"),
        vote(tmp_path, "a", "ann", "taken back"),
        vote(tmp_path, None, "ann", "taken back"),
        vote(tmp_path, "cannot_tell", "bob", "i2"),
    ]
    rows = [*rows_of(write_votes(tmp_path / "votes.jsonl", votes), "votes")]
    assert reasons(rows) == [(8, "item 'i2' has no vote that counts: 1 x cannot_tell")]
    (example,) = records(rows).values()
    assert (example.id, example.source, example.target.winner) == ("i1", "votes", "second")
    assert example.raters == Counter(n=2, b=2, a=0, tie=0, both_bad=0, cannot_tell=0)


def test_a_torn_line_and_an_item_with_two_contents_fail_alone(tmp_path):
    other = vote(tmp_path, "b", "cy")
    other = replace(other, example=replace(other.example, prompt="a dog"))
    path = write_votes(tmp_path / "votes.jsonl", [vote(tmp_path), other, vote(tmp_path, item="i2")])
    path.write_bytes(path.read_bytes()[:-30])
    rows = [*rows_of(path, "votes")]
    assert reasons(rows) == [
        (2, "item 'i1' has other content in row 1"),
        (3, "the file ends inside row 3"),
    ]
    assert records(rows)["i1"].raters["n"] == 1


def test_stars_are_the_share_that_prefer_the_first_and_a_score_of_each_candidate(tmp_path):
    """Style: 4 to 2, 3 to 3, so 0.75 for the first; means 3.5 and 2.5."""
    votes = [
        vote(tmp_path, "a", "ann", aspects={"style": (4, 2), "text": (1, 5)}),
        vote(tmp_path, "a", "bob", aspects={"style": (3, 3)}),
        vote(tmp_path, "b", "bob", "i2"),
    ]
    path = write_votes(tmp_path / "votes.jsonl", votes)
    compared = records(rows_of(path, "votes"))
    assert compared["i1"].target.aspects == {"style": 0.75, "text": 0.0}
    assert compared["i2"].target.aspects == {}
    scored = records(rows_of(path, "votes_stars"))
    assert list(scored) == ["i1:a", "i1:b"]
    first, second = scored.values()
    assert first.target.aspects == {"style": 3.5, "text": 1.0}
    assert second.target.aspects == {"style": 2.5, "text": 5.0}
    assert (first.target.scale, first.target.score, first.raters) == (Scale(1, 5), None, 2)
    assert (first.tags["model"], second.tags["model"]) == ("new", "old")
    assert (first.form, first.candidates[0]) == ("score", Image(tmp_path / "i1-a.png"))


def test_stars_of_a_candidate_in_several_items_are_one_score(tmp_path):
    first = vote(tmp_path, "a", "ann", aspects={"style": (4, 2)})
    again = replace(first.example, id="i9", candidates=first.example.candidates[::-1])
    other = replace(first, example=again, aspects={"style": (1, 5)}, a="old", b="new")
    path = write_votes(tmp_path / "votes.jsonl", [first, other])
    scored = records(rows_of(path, "votes_stars"))
    assert {name: row.target.aspects["style"] for name, row in scored.items()} == {
        "i1:a": 4.5,
        "i1:b": 1.5,
    }


def test_raters_are_trusted_by_their_share_of_right_gold_votes(tmp_path):
    """Ann 1 of 2, Bob 2 of 2, and Cy saw none."""
    votes = [
        vote(tmp_path, choice, rater, item, gold="a")
        for rater, choices in (("ann", "ab"), ("bob", "aa"))
        for item, choice in zip(("g1", "g2"), choices, strict=True)
    ]
    votes += [vote(tmp_path, "b", rater) for rater in ("ann", "bob", "cy")]
    votes.append(vote(tmp_path, "both_bad", "bob", "g3", gold="tie"))  # right, as in the standings
    assert trusted_raters(votes) == {"bob", "cy"}
    assert trusted_raters(votes, 0.5) == {"ann", "bob", "cy"}
